"""Sums over many attention rows, taken in slices so that no full map is ever held. All maps here are causal."""

from __future__ import annotations

import torch
from torch import Tensor

from .score import attention_rows, text_rows


def strongest_head(q: Tensor, k: Tensor, rows: Tensor, where: Tensor, chunk: int = 64) -> Tensor:
    """What some rows pay some columns, each pair in the head that pays most, summed over the rows.

    q (B, H, L, d) already scaled, k (B, g, L, d), rows (B, r) and where (B, n) positions -> (B, n) float32.
    """
    total = torch.zeros(k.shape[0], k.shape[2], device=k.device)
    for i in range(0, rows.shape[1], chunk):
        some = rows[:, i : i + chunk]
        stop = int(some.max()) + 1  # no row of the slice sees a later key
        total[:, :stop] += text_rows(q, k[:, :, :stop], some).amax(1).sum(1)
    return total.gather(1, where)


def page_rank(
    q: Tensor, k: Tensor, steps: int, temperature: float = 1.0, damping: float = 0.0, chunk: int = 64
) -> Tensor:
    """Where a walker ends that starts anywhere and follows attention for some steps, by head.

    With chance ``damping`` a step starts anew, anywhere.

    q (B, H, L, d) already scaled, k (B, g, L, d) -> (B, H, L) float32, each head sums to 1. The map is causal, so what
    a slice of rows receives is known once all later rows have given theirs: from the last slice to the first, all steps
    are taken at once and every attention row is computed once.
    """
    b, h, length, _ = q.shape
    at = torch.full((steps + 1, b, h, 1, length), damping / length, device=k.device)
    at[0] = 1 / length
    for stop in range(length, 0, -chunk):
        start = max(0, stop - chunk)
        here = torch.arange(start, stop, device=k.device)
        seen = torch.arange(stop, device=k.device) <= here[:, None]
        rows = attention_rows(q[:, :, start:stop], k[:, :, :stop], 1 / temperature, seen)  # (B, H, r, stop)
        for step in range(steps):
            at[step + 1, ..., :stop] += at[step, ..., start:stop] @ rows * (1 - damping)
    return at[-1, :, :, 0]
