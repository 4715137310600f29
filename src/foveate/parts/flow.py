"""What attention maps of an encoder say about tokens, from queries and keys, in slices: no n x n map of all heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

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


def row_crowd(maps: Iterable[tuple[int, Tensor]], skip: int = 0, peak: bool = False) -> Tensor:
    """How many others look at the same things: sum of the cosines of a token's attention row with all rows after skip.

    Rows are means over heads, or maxima with ``peak``. -> (B, n - skip).
    """
    unit = torch.cat([normalize(r.amax(1) if peak else r.mean(1), dim=-1) for _, r in maps], 1)[:, skip:]
    return (unit @ unit.sum(1)[..., None])[..., 0]


def heads(q: Tensor, k: Tensor, size: Tensor | None = None) -> Iterator[Tensor]:
    """The attention map (B, n, n) of one head after the other; only one is held at a time."""
    bias = None if size is None else size.float().log()[:, None, None]
    group = q.shape[1] // k.shape[1]
    for h in range(q.shape[1]):
        rows = []
        for b in range(len(q)):  # row by row: a map of one image fits the cache, those of a batch do not
            one, at = slice(b, b + 1), h // group
            rows.append(
                attention_rows(q[one, h : h + 1], k[one, at : at + 1], 1.0, None if bias is None else bias[one])
            )
        yield torch.cat(rows)[:, 0]


def walk(share: Tensor, steps: int) -> Tensor:
    """Where a walker stands who starts anywhere and follows attention. share (B, n, n), rows sum to 1 -> (B, n)."""
    at = share.new_full((share.shape[0], 1, share.shape[1]), 1 / max(1, share.shape[1]))
    for _ in range(steps):
        at = at @ share
    return at[:, 0]
