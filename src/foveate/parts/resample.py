"""Resizing a grid as a matrix: every new cell is a mixture of old ones, and the new grid may be the larger one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, interpolate

Kind = Literal["bilinear", "area"]


def resized(x: Tensor, old: tuple[int, int], new: tuple[int, int], kind: Kind) -> Tensor:
    """x (..., high * wide, D) on the grid ``old`` -> (..., new high * new wide, D), each list row by row.

    "bilinear" mixes the four cells around the new one's centre, without smoothing; "area" averages those it covers.
    """
    rows, columns = (_line(a, b, kind).to(x) for a, b in zip(old, new))
    grid = x.unflatten(-2, old)
    return torch.einsum("ia,jb,...abd->...ijd", rows, columns, grid).flatten(-3, -2)


def _line(old: int, new: int, kind: Kind) -> Tensor:
    """Shares of the old cells of a line in its new ones, (new, old)."""
    unit = torch.eye(old)[None]
    line = adaptive_avg_pool1d(unit, new) if kind == "area" else interpolate(unit, size=new, mode="linear")
    return line[0].T
