"""Which tokens are unlike each other, and which are unlike a few given ones. Ties go to the earlier position."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .select import gram


def oddest(x: Tensor) -> Tensor:
    """The token least like the mean direction of its row. x (B, n, D) -> (B,) positions."""
    unit = normalize(x.float(), dim=-1)
    return (unit @ unit.mean(1)[..., None])[..., 0].argmin(-1)


def spread(x: Tensor, m: int, start: Tensor, total: bool = False) -> Tensor:
    """Greedily far apart under cosine distance, from a given token on. x (B, n, D), start (B,) -> (B, m), as picked.

    Each pick is the token farthest from the nearest token picked so far (k-centre), or with ``total`` the one whose
    distances to all picked tokens sum to most.
    """
    unit = normalize(x.float(), dim=-1)
    b, n = x.shape[:2]
    table = gram(unit).view(b * n, n)
    base = torch.arange(b, device=x.device) * n
    picked = torch.empty(m, b, dtype=torch.long, device=x.device)
    best, near = start, torch.full((b, n), 0.0 if total else -torch.inf, device=x.device)
    for step in range(m):
        picked[step] = best
        row = table.index_select(0, best + base)
        near = near + row if total else torch.maximum(near, row)
        near.scatter_(1, best[:, None], torch.inf)
        best = near.argmin(-1)
    return picked.T.contiguous()


def least_like(unit: Tensor, pivot: Tensor, taken: Tensor, m: int) -> Tensor:
    """The m free tokens least similar to a pivot. unit (B, n, D), pivot (B, D) both of length 1, taken (B, n) bool.

    -> (B, m) positions, least similar first; a row with fewer than m free tokens would repeat taken ones.
    """
    like = (unit @ pivot[..., None])[..., 0].masked_fill(taken, torch.inf)
    return like.argsort(stable=True, dim=-1)[:, :m]
