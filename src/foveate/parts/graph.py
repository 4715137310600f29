"""Graphs of tokens, as (B, n, n) matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .select import gram

#: Rows of a graph that are made at once, so that what is compared stays in the processor's cache.
BLOCK = 64


def adjacent(grid: Tensor) -> Tensor:
    """Cells that touch, corners too, in the same view. grid (B, n, 3) -> (B, n, n) bool, False on the diagonal."""
    cell = grid.int().masked_fill(grid[..., 2:] < 0, -9)
    lone = cell[:, None, :, 2] < 0
    rows = []
    for part in cell.split(BLOCK, 1):
        view, row, column = (a[:, :, None] - b[:, None] for a, b in zip(part.unbind(-1), cell.unbind(-1)))
        rows.append((view == 0) & (row.abs_() <= 1) & (column.abs_() <= 1) & ~lone)
    return _others(torch.cat(rows, 1))


def similar(x: Tensor, k: int) -> Tensor:
    """Each token's k most cosine-similar others, more at ties. x (B, n, D) -> (B, n, n) bool, row sees column."""
    near = gram(normalize(x.float(), dim=-1))
    least = near.topk(min(k + 1, x.shape[1]), dim=-1).values[..., -1:]  # of the k others and the token itself
    return _others(near >= least)


def symmetric(edge: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 with the row sums of A as D. edge (B, n, n) bool -> float32; lonely tokens have zeros."""
    scale = _scale(edge)
    return scale[..., None] * edge.float() * scale[:, None]


def between(edge: Tensor, some: Tensor, others: Tensor) -> Tensor:
    """Some rows and columns of :func:`symmetric`. edge (B, n, n) bool, some (B, s), others (B, o) -> (B, s, o)."""
    scale, rows = _scale(edge), torch.arange(len(edge), device=edge.device)[:, None, None]
    weight = edge[rows, some[..., None], others[:, None]].float()
    return scale.gather(1, some)[..., None] * weight * scale.gather(1, others)[:, None]


def _scale(edge: Tensor) -> Tensor:
    """D^-1/2, (B, n), and 0 for lonely tokens."""
    count = torch.cat([part.float().sum(-1) for part in edge.split(BLOCK, 1)], 1)  # sums of bools are slow
    scale = count.rsqrt()
    return scale.masked_fill(scale.isinf(), 0.0)


def _others(edge: Tensor) -> Tensor:
    """Without loops, in place."""
    edge.diagonal(dim1=1, dim2=2).fill_(False)
    return edge
