"""What attention maps of an encoder say about tokens, from queries and keys, in slices: no n x n map of all heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from .score import attention_rows


class Flow(NamedTuple):
    """Of every head: what each token pays itself, (B, H, n), what it gets from all, and what from the first one."""

    own: Tensor
    received: Tensor
    first: Tensor


def slices(q: Tensor, k: Tensor, size: Tensor | None = None, chunk: int = 64) -> Iterator[tuple[int, Tensor]]:
    """Attention rows, a few queries at a time: (start, (B, H, rows, n)). size (B, n) adds its log to the logits."""
    bias = None if size is None else size.float().log()[:, None, None]
    for at in range(0, q.shape[2], chunk):
        yield at, attention_rows(q[:, :, at : at + chunk], k, 1.0, bias)


def flow(maps: Iterable[tuple[int, Tensor]]) -> Flow:
    """maps: as from :func:`slices`, or [(0, A)] of whole maps A (B, H, n, n)."""
    own, received, first = [], torch.zeros(()), []
    for at, rows in maps:
        own.append(rows.diagonal(at, 2, 3))
        received = rows.sum(2) + received.to(rows.device)
        first += [rows[:, :, 0]] if at == 0 else []
    return Flow(torch.cat(own, 2), received, first[0])


def head_flow(q: Tensor, k: Tensor, size: Tensor | None = None, chunk: int = 128) -> Flow:
    """:func:`flow` of :func:`slices`, one head after the other: some rows of one head stay in the cache."""
    q, k, share = q.float(), k.float(), q.shape[1] // k.shape[1]
    if size is not None:  # the log of the size is one more feature of the keys, not one more pass over the map
        log = size.float().log()[:, None, :, None]
        q, k = pad(q, (0, 1), value=1.0), torch.cat([k, log.expand(*k.shape[:3], 1)], -1)
    each = [flow(slices(q[:, h : h + 1], k[:, h // share, None], None, chunk)) for h in range(q.shape[1])]
    own, received, first = (torch.cat(parts, 1) for parts in zip(*each))
    return Flow(own, received, first)


def row_crowd(maps: Iterable[tuple[int, Tensor]], skip: int = 0, peak: bool = False) -> Tensor:
    """How many others look at the same things: sum of the cosines of a token's attention row with all rows after skip.

    Rows are means over heads, or maxima with ``peak``. -> (B, n - skip).
    """
    unit = torch.cat([normalize(r.amax(1) if peak else r.mean(1), dim=-1) for _, r in maps], 1)[:, skip:]
    return (unit @ unit.sum(1)[..., None])[..., 0]


def heads(q: Tensor, k: Tensor, size: Tensor | None = None, out: Tensor | None = None) -> Iterator[Tensor]:
    """The attention map (B, n, n) of one head after the other; only one is held at a time.

    ``out``, of that shape, holds each of them in turn: fresh memory for every head costs as much as the map.
    """
    group = q.shape[1] // k.shape[1]
    for h in range(q.shape[1]):
        whole = torch.empty(len(q), q.shape[2], k.shape[2], device=q.device) if out is None else out
        for b in range(len(q)):  # row by row, a few queries at a time: these fit the cache, a batch of maps does not
            one, at = slice(b, b + 1), h // group
            own = None if size is None else size[one]
            for start, rows in slices(q[one, h : h + 1], k[one, at : at + 1].float(), own, 128):
                whole[b, start : start + rows.shape[2]] = rows[0, 0]
        yield whole


def walk(share: Tensor, steps: int) -> Tensor:
    """Where a walker stands who starts anywhere and follows attention. share (B, n, n), rows sum to 1 -> (B, n).

    Each row walks until it stands still up to rounding, or ``steps`` steps.
    """
    found = []
    for one in share:
        at = one.new_full((1, one.shape[1]), 1 / max(1, one.shape[1]))
        for _ in range(steps):
            before, at = at, at @ one
            if torch.allclose(at, before, rtol=1e-6, atol=0.0):
                break
        found.append(at)
    return torch.cat(found) if found else share.new_empty(share.shape[:2])


def walks(q: Tensor, k: Tensor, steps: int) -> Tensor:
    """:func:`walk` in the map of every head. q (B, H, n, d), k (B, g, n, d) -> (B, H, n)."""
    out = torch.empty(len(q), q.shape[2], k.shape[2], device=q.device)
    return torch.stack([walk(share, steps) for share in heads(q, k, out=out)], 1)
