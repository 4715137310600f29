"""Parts of a cache that stay whole beside parts whose entries are averaged, and masks of a prefill in blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reduction import Reduction


def average_units(unit: Tensor) -> Reduction:
    """Entries of the same unit become their mean. unit (B, n) int64, equal ones side by side, -1 where dropped.

    A mean has the place of its first entry.
    """
    first = torch.ones_like(unit, dtype=torch.bool)
    first[:, 1:] = unit[:, 1:] != unit[:, :-1]
    first &= unit >= 0
    out = Reduction.from_mask(first)
    assign = (first.cumsum(-1) - 1).masked_fill(unit < 0, -1)
    spare = torch.where(assign >= 0, assign, out.m)
    count = torch.zeros(len(unit), out.m + 1, device=unit.device).scatter_add(1, spare, (assign >= 0).float())
    weight = (assign >= 0) / count.gather(1, spare).clamp(min=1)
    return Reduction(out.keep, assign, weight, None, bool((out.assign == assign).all()))


def pooled_units(run: Tensor, whole: Tensor, pool: int, short: bool = True) -> Tensor:
    """Units of ``pool`` entries along each run. run (B, n) int64, -1 outside of any, whole (B, n) bool: kept as it is.

    -> (B, n) for :func:`average_units`. What is left at the end of a run is averaged too, or dropped if not ``short``.
    """
    n = run.shape[1]
    at = torch.arange(n, device=run.device).expand_as(run)
    alone = whole | (run < 0)
    new = torch.ones_like(alone)
    new[:, 1:] = (run[:, 1:] != run[:, :-1]) | alone[:, 1:] | alone[:, :-1]
    start = torch.where(new, at, 0).cummax(-1).values
    unit = start + (at - start) // pool * pool
    if short:
        return unit
    size = torch.zeros_like(unit).scatter_add(1, unit, torch.ones_like(unit)).gather(1, unit)
    return unit.masked_fill((size < pool) & ~alone, -1)


def block_mask(n: int, start: int, end: int, block: Tensor, shared: Tensor, before: int) -> Tensor:
    """Who sees whom when a video is read in blocks: (n, n) bool, causal.

    start, end: where the video begins and ends; block (end - start,) ascending: the block of each of its tokens;
    shared (n,) bool: tokens that everything sees and that see everything, such as timestamps. What lies outside of the
    video is shared too. A block sees itself and the ``before`` blocks before it.
    """
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    open_ = shared.clone()
    open_[:start] = open_[end:] = True
    number = torch.full((n,), -1)
    number[start:end] = block
    back = number[:, None] - number
    near = (back >= 0) & (back <= before) & (number >= 0)[:, None] & (number >= 0)
    return causal & (near | open_ | open_[:, None])
