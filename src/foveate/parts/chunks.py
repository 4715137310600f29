"""Sums over many attention rows, taken in slices so that no full map is ever held. All maps here are causal.

On a CPU a slice is some rows of one head, which stays in the cache between the steps; elsewhere it has all heads.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def strongest_head(q: Tensor, k: Tensor, rows: Tensor, where: Tensor, chunk: int = 128) -> Tensor:
    """What some rows pay some columns, each pair in the head that pays most, summed over the rows.

    q (B, H, L, d) already scaled, k (B, g, L, d), rows (B, r) and where (B, n) positions -> (B, n) float32.
    """
    total = torch.zeros(k.shape[0], k.shape[2], device=k.device)
    k = k.float()
    for i in range(0, rows.shape[1], chunk):
        some = rows[:, i : i + chunk]
        asked = q.gather(2, some[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])).float()
        low, stop = int(some.min()), int(some.max()) + 1  # all rows see the keys below low, none those from stop on
        seen = torch.arange(low, stop, device=k.device) <= some[:, None, :, None]
        best: Tensor | None = None
        for at, group in _together(q, k):
            paid = _causal(asked[:, at], k[:, group, :stop], 1.0, seen).amax(1)
            best = paid if best is None else torch.maximum(best, paid)
        if best is not None:
            total[:, :stop] += best.sum(1)
    return total.gather(1, where)


def page_rank(
    q: Tensor, k: Tensor, steps: int, temperature: float = 1.0, damping: float = 0.0, chunk: int = 128
) -> Tensor:
    """Where a walker ends that starts anywhere and follows attention for some steps, by head.

    With chance ``damping`` a step starts anew, anywhere.

    q (B, H, L, d) already scaled, k (B, g, L, d) -> (B, H, L) float32, each head sums to 1. The map is causal, so what
    a slice of rows receives is known once all later rows have given theirs: from the last slice to the first, all steps
    are taken at once and every attention row is computed once.
    """
    b, h, length, _ = q.shape
    at = torch.full((b, h, steps + 1, length), damping / length, device=k.device)
    at[:, :, 0] = 1 / length
    k = k.float()
    for heads, group in _together(q, k):
        mine = at[:, heads]  # a view: what is written here is written there
        for stop in range(length, 0, -chunk):
            start = max(0, stop - chunk)
            here = torch.arange(start, stop, device=k.device)
            rows = _causal(q[:, heads, start:stop], k[:, group, :stop], 1 / temperature, here <= here[:, None])
            among, giving = rows[..., start:], mine[..., start:stop]
            for step in range(steps):  # one after the other within the slice, to earlier tokens all at once
                giving[:, :, step + 1] += (giving[:, :, step, None] @ among)[:, :, 0] * (1 - damping)
            mine[:, :, 1:, :start] += giving[:, :, :-1] @ rows[..., :start] * (1 - damping)
    return at[:, :, -1]


def _causal(q: Tensor, k: Tensor, scaling: float, seen: Tensor) -> Tensor:
    """Softmaxed attention of q (B, h, r, d) on k (B, g, n, d); the mask ``seen`` (..., r, c) covers the last c keys."""
    (b, h, r, d), (g, n) = q.shape, k.shape[1:3]
    logits = (q.reshape(b, g, h // g * r, d).float() @ k.mT).view(b, h, r, n)
    if scaling != 1:
        logits *= scaling
    logits[..., n - seen.shape[-1] :].masked_fill_(~seen, -torch.inf)
    return logits.softmax(-1)


def _together(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Query heads that are taken at once, and their KV heads."""
    h, share = q.shape[1], q.shape[1] // k.shape[1]
    if q.device.type != "cpu":
        yield slice(0, h), slice(0, k.shape[1])
        return
    for i in range(h):
        yield slice(i, i + 1), slice(i // share, i // share + 1)
