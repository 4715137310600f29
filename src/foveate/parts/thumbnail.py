"""One picture that shows several frames side by side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from .spaced import spaced


def sides(count: int) -> tuple[int, int]:
    """Rows and columns of the squarest full table of so many pictures, not more columns than rows."""
    columns = max(c for c in range(1, count + 1) if count % c == 0 and c * c <= count)
    return count // columns, columns


def thumbnail(frames: Tensor, count: int, size: int) -> Tensor:
    """Evenly spaced frames (T, C, H, W), shrunk and laid out row by row -> (C, h, w), each at most ``size``.

    A frame that shrinks in either direction is averaged over areas, others are interpolated. Where rows or columns do
    not divide the size the picture is that much smaller.
    """
    rows, columns = sides(count)
    some = frames[spaced(len(frames), count, frames.device)].float()
    cell = (size // rows, size // columns)
    if cell[0] < some.shape[2] or cell[1] < some.shape[3]:
        small = adaptive_avg_pool2d(some, cell)
    else:
        small = interpolate(some, size=cell, mode="bilinear", align_corners=False)
    bands = [torch.cat(list(band), -1) for band in small.split(columns)]
    return torch.cat(bands, -2)
