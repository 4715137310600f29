"""Removing near-duplicates from a ranked list."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .select import gram


def thin(x: Tensor, m: int, step: int) -> Tensor:
    """Drop tokens that resemble another until m are left, ``step`` at a time. x (B, n, d), in rank order -> (B, m).

    Each round the even places of the list are compared with the odd ones, and those even ones that are most similar to
    an odd one go. The list of the next round is what is left of the even ones, most similar first, then the odd ones.
    """
    b, n = x.shape[:2]
    left = torch.arange(n, device=x.device).repeat(b, 1)
    if m <= 0 or n <= m:
        return left[:, : max(m, 0)]
    near = gram(normalize(x.float(), dim=-1))
    while (size := left.shape[1]) > m:
        even, odd = left[:, ::2], left[:, 1::2]
        others = torch.full((b, n), -torch.inf, device=x.device).scatter(1, odd, 0.0)
        best = torch.stack([_closest(*row) for row in zip(near, even, others)])
        rank = best.argsort(stable=True, dim=-1, descending=True)
        left = torch.cat([even.gather(1, rank[:, min(step, size - m) :]), odd], 1)
    return left


def _closest(near: Tensor, rows: Tensor, mask: Tensor, block: int = 64) -> Tensor:
    """Largest entry of some rows of near (n, n), mask (n,) added; in blocks that stay in the processor's cache."""
    return torch.cat([near.index_select(0, at).add_(mask).amax(-1) for at in rows.split(block)])
