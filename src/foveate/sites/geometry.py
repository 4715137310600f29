"""Where visual tokens stand: cells of a grid, crops of an image, and which tokens only end a line."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def square(images: int, n: int, device: torch.device, rows: int | None = None) -> Tensor:
    """Cells of n tokens of each image in raster order -> (3, images n): image, row, column.

    ``rows``: of a grid that is not square.
    """
    cols = n // rows if rows else math.isqrt(n)
    at = torch.arange(n, device=device).repeat(images)
    view = torch.arange(images, device=device).repeat_interleave(n)
    return torch.stack([view, at // cols, at % cols])


def packed(grid: Tensor, merge: int) -> Tensor:
    """grid (items, 3) of frames, rows and columns of patches -> cells of all merged tokens in raster order (3, T).

    Views are counted through all items.
    """
    parts, views = [], 0
    for t, h, w in grid.tolist():
        rows, cols = int(h) // merge, int(w) // merge
        cells = square(int(t), rows * cols, grid.device, rows)
        parts.append(cells + torch.tensor([[views], [0], [0]], device=grid.device))
        views += int(t)
    return torch.cat(parts, 1)


def stitched(crop: Tensor, end: Tensor, side: int) -> Tensor:
    """Cells of one image that was cut into crops: the thumbnail, then the crops line by line, each line with an end.

    crop, end (T,): 0 for the thumbnail, and whether a token only ends a line; side: of the thumbnail -> (3, T).
    """
    n = len(crop)
    at = torch.arange(n, device=crop.device)
    base = (crop == 0) & ~end
    first = int(base.sum())
    lines = end.long().cumsum(0) - end.long()
    lines = lines - lines[first] if first < n else lines
    starts = torch.where(end, at + 1, 0).cummax(0).values  # where the next line begins
    start = torch.cat([starts.new_full((1,), first), starts[:-1].clamp(min=first)])
    crops = bool((~base & ~end).any())
    row = torch.where(base, at // side, lines if crops else lines + side - 1)
    col = torch.where(base, at % side, at - start).masked_fill(end, -1)
    return torch.stack([(~base).long() if crops else torch.zeros_like(at), row, col])


def filmed(frames: int, n: int, device: torch.device) -> Tensor:
    """Cells of a video of ``frames`` x n tokens that ends in one token of its own -> (3, frames n + 1)."""
    cells = square(frames, n, device)
    last = torch.tensor([[frames - 1], [math.isqrt(n) - 1], [-1]], device=device)
    return torch.cat([cells, last], 1)


def apart(grid: Tensor, run: Tensor) -> Tensor:
    """Cells of several images as views of one scene. grid (B, n, 3), run (B, n) the image of each token -> (B, n, 3).

    Views are numbered through all images of a row, from 0.
    """
    if not grid.shape[1]:
        return grid
    view = run * (int(grid[..., 0].max()) + 1) + grid[..., 0]
    rank = torch.stack([row.unique(return_inverse=True)[1] for row in view])
    return torch.cat([rank[..., None], grid[..., 1:]], -1)
