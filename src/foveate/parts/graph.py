"""Graphs of tokens, as (B, n, n) matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def adjacent(grid: Tensor) -> Tensor:
    """Cells that touch, corners too, in the same view. grid (B, n, 3) -> (B, n, n) bool, False on the diagonal."""
    view, row, column = grid.int().unbind(-1)
    touch = _apart(view) == 0
    for t in (row, column):
        touch &= _apart(t) <= 1
    touch &= (column >= 0)[:, :, None] & (column >= 0)[:, None]
    return touch & ~_eye(touch)


def similar(x: Tensor, k: int) -> Tensor:
    """Each token's k most cosine-similar others, more at ties. x (B, n, D) -> (B, n, n) bool, row sees column."""
    n = x.shape[1]
    unit = normalize(x.float(), dim=-1)
    near = unit @ unit.mT
    least = near.kthvalue(max(1, n - k), dim=-1, keepdim=True).values
    edge = near >= least
    return edge & ~_eye(edge)


def symmetric(edge: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 with the row sums of A as D. edge (B, n, n) bool -> float32; lonely tokens have zeros."""
    weight = edge.float()
    scale = weight.sum(-1).rsqrt()
    scale = scale.masked_fill(scale.isinf(), 0.0)
    return scale[..., None] * weight * scale[:, None]


def _eye(edge: Tensor) -> Tensor:
    return torch.eye(edge.shape[-1], dtype=torch.bool, device=edge.device)


def _apart(t: Tensor) -> Tensor:
    """t (B, n) -> (B, n, n) distances."""
    return (t[:, :, None] - t[:, None]).abs()
