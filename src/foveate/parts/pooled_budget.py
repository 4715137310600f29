"""One budget for all heads of a row: an entry stays where it matters most, so heads keep different numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from .budget import floor_budget


def number_kept(keep: float | int, n: int) -> int:
    """How many of n entries a head keeps on average; shares are rounded down, but never to nothing."""
    return min(keep, n) if isinstance(keep, int) else floor_budget(keep, n)


def lowest_out(score: Tensor, drop: int, safe: int = 0) -> Tensor:
    """Drop the lowest scores of all heads together. score (B, g, n) -> (B, g, n) bool, True where kept.

    The ``safe`` best entries of each head are never dropped. Among equals the earlier position stays, then the first
    head.
    """
    b, g, n = score.shape
    score = score.float()
    if safe:
        order = score.argsort(stable=True, dim=-1, descending=True)[..., :safe]
        score = score.scatter(-1, order, torch.inf)
    flat = score.transpose(1, 2).flatten(1)
    order = flat.argsort(stable=True, dim=-1, descending=True)[:, : max(0, g * n - drop)]
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter(1, order, True)
    return mask.view(b, n, g).transpose(1, 2)
