"""Frames pooled to any number of areas each, whatever cells of theirs are left."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reduction import Reduction
from ..tokens import Tokens
from .film import Film
from .pooling import averaged
from .quota import share_out
from .ranks import ranks


def pooled(tokens: Tokens, film: Film, weight: Tensor, m: int) -> Reduction:
    """Average the cells of each frame area by area, m areas in all, shared among the frames by weight (B, F) >= 0.

    Line ends are pooled among themselves; of a frame's areas they get their part by number.
    """
    view = views(tokens, film)
    return averaged(areas(tokens.need("grid"), view, seats(view, claims(view, weight), m)), tokens.size)


def views(tokens: Tokens, film: Film) -> Tensor:
    """The frame of each token, (B, n); line ends are frames of their own after all others."""
    return film.frame + film.frames * (tokens.need("grid")[..., 2] < 0)


def claims(view: Tensor, weight: Tensor) -> Tensor:
    """weight (B, F) of the frames -> (B, 2 F) of the views, where a frame shares its own with its line ends."""
    sizes = members(view, 2 * weight.shape[1]).view(len(view), 2, -1)
    part = sizes / sizes.sum(1, keepdim=True).clamp(min=1)
    return (part * weight[:, None].float()).flatten(1)


def members(group: Tensor, count: int) -> Tensor:
    """Tokens of each group: group (B, n) from 0 -> (B, count) int64."""
    return group.new_zeros(len(group), count).scatter_add(1, group, torch.ones_like(group))


def seats(group: Tensor, claim: Tensor, m: int) -> Tensor:
    """How many of m places each group gets by its claim, at most one for each member: (B, G) int64, m in all.

    group (B, n), claim (B, G) >= 0; a group without a claim gets only what the others leave.
    """
    score = torch.zeros(group.shape, device=group.device)
    claim = claim.float() / claim.float().amax(-1, keepdim=True).clamp(min=1e-30)
    mine = share_out(score, group, claim.clamp(min=1e-20), m)
    return group.new_zeros(claim.shape).scatter_add(1, group, mine.long())


def areas(grid: Tensor, view: Tensor, count: Tensor) -> Tensor:
    """The area that each token falls in, numbered view by view: (B, n) int64, -1 in a view that has none.

    grid (B, n, 3), view (B, n) from 0, count (B, V): how many areas each view is cut into, at most its tokens. An area
    is never empty. The view is cut into bands of rows and each band into columns, as near to squares as the count
    allows; where rows and columns divide evenly these are the cells of plain pooling.
    """
    v = count.shape[1]
    row, column = (grid[..., i] - grid[..., i].amin() for i in (1, 2))
    high, wide = _span(row, view, v), _span(column, view, v)
    size, many = members(view, v).gather(1, view), count.gather(1, view)
    bands = (many * high / wide).sqrt().round().long().clamp(min=1).minimum(many.clamp(min=1))
    reading = ranks(-(row * (column.amax() + 1) + column).float(), view)
    band = reading * many // size * bands // many.clamp(min=1)
    group = view * (int(bands.max()) + 1) + band
    first = _up(band * many, bands)  # of the view's areas, the first in this band
    inside = _up((band + 1) * many, bands) - first
    across = ranks(-(column * (row.amax() + 1) + row).float(), group)
    held = members(group, v * (int(bands.max()) + 1)).gather(1, group)
    before = (count.cumsum(-1) - count).gather(1, view)
    return (before + first + across * inside // held).masked_fill(many == 0, -1)


def _span(at: Tensor, view: Tensor, count: int) -> Tensor:
    """Rows (or columns) that the view of each token reaches over, (B, n)."""
    low = at.new_full((len(at), count), 1 << 30).scatter_reduce(1, view, at, "amin")
    high = at.new_full((len(at), count), -1).scatter_reduce(1, view, at, "amax")
    return (high - low + 1).gather(1, view)


def _up(a: Tensor, b: Tensor) -> Tensor:
    """a / b rounded up."""
    return (a + b - 1) // b
