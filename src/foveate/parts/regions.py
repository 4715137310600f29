"""Images cut into crops, with a thumbnail beside them: which part of the thumbnail a crop shows, and back.

Everywhere ``crop`` (B, n) is 0 at the thumbnail, 1, 2, ... at the crops, row by row, and -1 at line ends; ``grid``
(B, n, 3) holds view, row and column, where all crops count rows and columns of the one image they make up.
"""

from __future__ import annotations

import torch
from torch import Tensor

FAR = 1 << 30


def group_sizes(group: Tensor, count: int) -> Tensor:
    """Members of each group. group (B, n) from 0 -> (B, count) int64."""
    return group.new_zeros(len(group), count).scatter_add(1, group, torch.ones_like(group))


def best_in_groups(score: Tensor, group: Tensor, counts: Tensor) -> Tensor:
    """The best of each group. score, group (B, n), counts (B, G) how many of each -> (B, n) bool."""
    by = score.float().argsort(stable=True, dim=-1, descending=True)
    by = by.gather(1, group.gather(1, by).argsort(stable=True, dim=-1))  # by group, and by score inside
    listed = group.gather(1, by)
    sizes = group_sizes(group, counts.shape[1])
    place = torch.arange(group.shape[1], device=group.device) - (sizes.cumsum(1) - sizes).gather(1, listed)
    return torch.zeros_like(group, dtype=torch.bool).scatter(1, by, place < counts.gather(1, listed))


def _extent(at: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest value and number of values from there to the largest, of the members: at (B, n) -> (B, 1) twice."""
    low = at.masked_fill(~member, FAR).amin(-1, keepdim=True)
    high = at.masked_fill(~member, -1).amax(-1, keepdim=True)
    return low, (high - low + 1).clamp(min=1)


def crop_grid(grid: Tensor, crop: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of crops: (B, 1) int64 each, at least 1."""
    inside = crop > 0
    top = crop.new_full((len(crop), max(1, int(crop.max())) + 1), FAR)
    row = grid[..., 1].masked_fill(~inside, FAR)
    top = top.scatter_reduce(1, crop.clamp(min=0), row, "amin")[:, 1:]
    wide = ((top == top[:, :1]) & (top < FAR)).sum(-1, keepdim=True).clamp(min=1)
    return (((top < FAR).sum(-1, keepdim=True) + wide - 1) // wide).clamp(min=1), wide


def blocks(grid: Tensor, crop: Tensor) -> Tensor:
    """The crop that shows the place of each thumbnail token, 0 at other tokens -> (B, n).

    The thumbnail is cut into as many equal blocks as there are crops; what remains goes to the last of each direction.
    """
    thumb = crop == 0
    high, wide = crop_grid(grid, crop)
    parts = []
    for dim, count in ((1, high), (2, wide)):
        low, size = _extent(grid[..., dim], thumb)
        parts.append(torch.minimum((grid[..., dim] - low) // (size // count).clamp(min=1), count - 1))
    block = torch.minimum(1 + parts[0] * wide + parts[1], crop.amax(-1, keepdim=True).clamp(min=0))
    return block.masked_fill(~thumb, 0)


def runs(crop: Tensor) -> Tensor:
    """As :func:`blocks`, but each crop gets a run of the thumbnail's tokens as they are listed, all equally long."""
    thumb = crop == 0
    count = crop.amax(-1, keepdim=True).clamp(min=0)
    length = (thumb.sum(-1, keepdim=True) // count.clamp(min=1)).clamp(min=1)
    return torch.minimum(1 + (thumb.cumsum(-1) - 1) // length, count).masked_fill(~thumb, 0)


def upsampled(score: Tensor, grid: Tensor, crop: Tensor) -> Tensor:
    """The thumbnail's score at the place of each crop token, interpolated bilinearly; 0 at other tokens.

    score (B, n) -> (B, n). Both are taken to show the whole image, so the corners of their outer tokens coincide.
    """
    thumb, inside = crop == 0, crop > 0
    sizes, low, weight = [], [], []
    for dim in (1, 2):
        first, small = _extent(grid[..., dim], thumb)
        start, large = _extent(grid[..., dim], inside)
        place = ((grid[..., dim] - start + 0.5) * small / large - 0.5).clamp(min=0)
        place = torch.minimum(place, (small - 1).float())
        sizes.append((first, small))
        low.append(place.long())
        weight.append(place - place.long())
    (row, high), (column, wide) = sizes
    cell = (grid[..., 1] - row) * wide + grid[..., 2] - column
    area = int((high * wide).max())
    least = score.masked_fill(~thumb, torch.inf).amin(-1, keepdim=True).masked_fill(~thumb.any(-1, keepdim=True), 0)
    table = least.repeat(1, area + 1).scatter(1, cell.masked_fill(~thumb, area), score)  # a missing cell has the least

    def at(y: Tensor, x: Tensor) -> Tensor:
        return table.gather(1, (torch.minimum(y, high - 1) * wide + torch.minimum(x, wide - 1)).clamp(0, area))

    (y, x), (down, right) = low, weight
    above = torch.lerp(at(y, x), at(y, x + 1), right)  # exact where the four are equal
    below = torch.lerp(at(y + 1, x), at(y + 1, x + 1), right)
    return torch.lerp(above, below, down).masked_fill(~inside, 0)
