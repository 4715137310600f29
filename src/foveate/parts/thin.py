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
    near = gram(normalize(x.float(), dim=-1)).view(b * n, n)
    start = torch.arange(b, device=x.device)[:, None] * n
    while (size := left.shape[1]) > m:
        even, odd = left[:, ::2].contiguous(), left[:, 1::2].contiguous()
        rows = near.index_select(0, (even + start).flatten()).view(b, -1, n)
        best = rows.gather(2, odd[:, None].expand(-1, even.shape[1], -1)).amax(-1)
        rank = best.argsort(stable=True, dim=-1, descending=True)
        left = torch.cat([even.gather(1, rank[:, min(step, size - m) :]), odd], 1)
    return left
