"""Averaging the tokens of a grid cell by cell, whatever the views, the line ends and the order."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reduction import Reduction
from ..tokens import Tokens
from .windows import cells


class Places:
    """Where each token of a batch lies; all (B, n) int64.

    Attributes:
        view: number of the view. Line ends are views of their own, one column wide.
        row, column: from 0 within the view.
        high, wide: rows and columns of the view.
        views: how many views there are in all.
    """

    def __init__(self, tokens: Tokens) -> None:
        b, n = tokens.x.shape[:2]
        if tokens.grid is None:  # the grid nearest to a square, row by row
            cell = cells(n, tokens.x.device).expand(b, n, 2)
            grid = torch.cat([torch.zeros_like(cell[..., :1]), cell], -1)
        else:
            grid = tokens.grid
        ends = grid[..., 2] < 0
        base = grid[..., 0].amin() if n else 0
        count = int(grid[..., 0].amax()) - int(base) + 1 if n else 1
        self.view = grid[..., 0] - base + count * ends
        self.views = 2 * count
        self.row, self.high = self._within(grid[..., 1])
        self.column, self.wide = self._within(grid[..., 2].clamp(min=0))

    def _within(self, at: Tensor) -> tuple[Tensor, Tensor]:
        low = at.new_full((len(at), self.views), 1 << 30).scatter_reduce(1, self.view, at, "amin")
        high = at.new_full((len(at), self.views), -1).scatter_reduce(1, self.view, at, "amax")
        at = at - low.gather(1, self.view)
        return at, (high - low + 1).gather(1, self.view)

    def sizes(self) -> Tensor:
        """Tokens of each view, (B, views)."""
        return self.view.new_zeros(len(self.view), self.views).scatter_add(1, self.view, torch.ones_like(self.view))

    def squares(self, side: Tensor | int, whole: bool = False) -> Tensor:
        """The square of side x side cells that each token falls in, numbered in all views together: (B, n).

        At the edges squares are smaller; with ``whole`` those tokens get -1. A line end stands for as many rows.
        """
        side = torch.as_tensor(side, device=self.row.device).expand_as(self.row)
        high, wide = torch.minimum(side, self.high), torch.minimum(side, self.wide)
        across = int(self.wide.max()) if self.wide.numel() else 1
        area = across * int(self.high.max() if self.high.numel() else 1)
        cell = self.view * area + self.row // high * across + self.column // wide
        if not whole:
            return cell
        inside = (self.row < self.high // high * high) & (self.column < self.wide // wide * wide)
        return cell.masked_fill(~inside, -1)


def averaged(cell: Tensor, size: Tensor | None = None) -> Reduction:
    """Tokens of one cell become their mean, at the place of the first. cell (B, n) int64, -1 dropped."""
    b, n = cell.shape
    if not n:
        return Reduction.identity(b, n, cell.device)
    at = torch.arange(n, device=cell.device).expand(b, n)
    first = cell.new_full((b, int(cell.max()) + 2), n).scatter_reduce(1, cell + 1, at, "amin")
    into = first.gather(1, cell + 1).masked_fill(cell < 0, -1)
    counts = (into == at).sum(-1)
    if bool((counts == counts[0]).all()):
        return Reduction.merge(into, size)
    parts = [Reduction.merge(into[i : i + 1], None if size is None else size[i : i + 1]) for i in range(b)]
    return Reduction.stack(parts)
