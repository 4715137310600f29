"""Cells of a grid and the windows that tile it."""

from __future__ import annotations

import torch
from torch import Tensor


def sides(n: int) -> tuple[int, int]:
    """Rows and columns of the grid nearest to a square that n cells fill."""
    rows = max(r for r in range(1, max(1, n) + 1) if max(1, n) % r == 0 and r * r <= max(1, n))
    return rows, n // rows


def cells(n: int, device: torch.device | str = "cpu") -> Tensor:
    """Row and column of n cells listed row by row on that grid: (n, 2) int64."""
    at = torch.arange(n, device=device)
    columns = max(1, sides(n)[1])
    return torch.stack([at // columns, at % columns], -1)


def tiles(cell: Tensor, window: int | tuple[int, int]) -> Tensor:
    """Which window each cell lies in, counted row by row; the last ones are smaller where they do not fit.

    cell (..., n, 2) int64 rows and columns, window side or (rows, columns) -> (..., n) int64.
    """
    high, wide = (window, window) if isinstance(window, int) else window
    if not cell.shape[-2]:
        return cell[..., 0]
    across = cell[..., 1].amax(-1, keepdim=True) // wide + 1
    return cell[..., 0] // high * across + cell[..., 1] // wide


def tightness(unit: Tensor, tile: Tensor, count: int) -> Tensor:
    """Mean cosine between the different members of each window, -1 where there is only one.

    unit (B, n, D) of length 1, tile (n,) -> (B, count). One sum for each window: the squared length of the sum of its
    vectors is the sum of all their products.
    """
    b, _, d = unit.shape
    total = unit.new_zeros(b, count, d).index_add(1, tile, unit).square().sum(-1)
    own = unit.new_zeros(b, count).index_add(1, tile, unit.square().sum(-1))
    members = torch.bincount(tile, minlength=count).to(unit.dtype)
    pairs = members * (members - 1)
    return torch.where(pairs > 0, (total - own) / pairs.clamp(min=1), -1.0)
