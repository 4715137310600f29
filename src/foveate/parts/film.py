"""A video's tokens as a table of frames and places, however many of them earlier methods have left."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..tokens import Tokens


class Film:
    """Which token stands at which place of which frame.

    A place is a cell of the frame's grid; a token that ends a line is a place of its own.

    Attributes:
        frame, place: of each token, (B, n) int64, both from 0.
        row, column: of each token in its frame, (B, n) int64; line ends are in column 0, others from 1.
        table: (B, F, P) int64, the position of the token in that place, or -1 where there is none.
        frames, places: F and P, the same for all rows of the batch.
    """

    def __init__(self, tokens: Tokens) -> None:
        grid = tokens.need("grid")
        b, n = grid.shape[:2]
        self.n = n
        if not n:
            self.frame = self.place = self.row = self.column = grid[..., 0]
            self.frames, self.places = 0, 0
            self.table = grid.new_full((b, 0, 0), -1)
            return
        self.frame = grid[..., 0] - grid[..., 0].amin(1, keepdim=True)
        self.row, self.column = row, column = grid[..., 1] - grid[..., 1].amin(), grid[..., 2] + 1
        self.place = row * (int(column.max()) + 1) + column
        used, self.place = self.place.unique(return_inverse=True)
        self.frames, self.places = int(self.frame.max()) + 1, len(used)
        at = torch.arange(n, device=grid.device).expand(b, n)
        flat = grid.new_full((b, self.frames * self.places), -1)
        self.table = flat.scatter(1, self.cell, at).view(b, self.frames, self.places)

    @property
    def cell(self) -> Tensor:
        """Frame and place of each token as one number, (B, n)."""
        return self.frame * self.places + self.place

    @property
    def there(self) -> Tensor:
        """(B, F, P) bool: a token stands there."""
        return self.table >= 0

    @property
    def sizes(self) -> Tensor:
        """Tokens of each frame, (B, F)."""
        return self.there.sum(-1)

    def laid(self, x: Tensor, empty: float = 0.0) -> Tensor:
        """x (B, n, ...) -> (B, F, P, ...), ``empty`` where no token stands."""
        b = len(x)
        at = self.table.clamp(min=0).flatten(1)
        rest = x.shape[2:]
        out = x.gather(1, at.view(b, -1, *[1] * len(rest)).expand(b, at.shape[1], *rest))
        out = out.masked_fill(~self.there.flatten(1).view(b, -1, *[1] * len(rest)), empty)
        return out.view(b, self.frames, self.places, *rest)

    def picked(self, value: Tensor) -> Tensor:
        """value (B, F, P) -> what it says of each token, (B, n)."""
        return value.flatten(1).gather(1, self.cell)

    def means(self, x: Tensor) -> Tensor:
        """x (B, n, D) -> the mean token of each frame, (B, F, D) float32; zeros for an empty frame."""
        total = x.new_zeros(len(x), self.frames, x.shape[-1], dtype=torch.float32)
        total = total.scatter_add(1, self.frame[..., None].expand_as(x), x.float())
        return total / self.sizes.clamp(min=1)[..., None]

    def before(self) -> Tensor:
        """The position of the token in the same place one frame earlier, or -1: (B, n)."""
        shifted = torch.full_like(self.table, -1)
        shifted[:, 1:] = self.table[:, :-1]
        return self.picked(shifted)

    def likeness(self, x: Tensor, empty: float = -1.0) -> Tensor:
        """Cosine of each token with the one in the same place one frame earlier: x (B, n, D) -> (B, n) float32.

        ``empty`` where there is none, as in the first frame.
        """
        return likeness(x, self.before(), empty)

    def contrast(self, unit: Tensor) -> Tensor:
        """How unlike the mean of its neighbours in the frame each token is: unit (B, n, D) of length 1 -> (B, n).

        1 - cosine with the mean of the tokens above, below, left and right that are there; 0 where there are none.
        """
        near, count = torch.zeros_like(unit), torch.zeros_like(unit[..., 0])
        for side in self.beside():
            there = side >= 0
            near = near + unit.gather(1, side.clamp(min=0)[..., None].expand_as(unit)) * there[..., None]
            count = count + there
        return (1 - (unit * normalize(near, dim=-1)).sum(-1)) * (count > 0)

    def beside(self) -> list[Tensor]:
        """Positions of the tokens above, below, left and right, (B, n) each; -1 where there is none."""
        wide = int(self.column.max()) + 3 if self.n else 3
        area = (int(self.row.max()) + 3) * wide if self.n else 9
        at = self.frame * area + (self.row + 1) * wide + self.column + 1
        board = at.new_full((len(at), self.frames * area), -1)
        board = board.scatter(1, at, torch.arange(self.n, device=at.device).expand_as(at))
        return [board.gather(1, at + step) for step in (-wide, wide, -1, 1)]


def likeness(x: Tensor, twin: Tensor, empty: float = -torch.inf) -> Tensor:
    """Cosine of each token with its twin. x (B, n, D), twin (B, n) -> (B, n) float32, ``empty`` where there is none."""
    unit = normalize(x.float(), dim=-1)
    other = unit.gather(1, twin.clamp(min=0)[..., None].expand_as(unit))
    return (unit * other).sum(-1).masked_fill(twin < 0, empty)


def segments(cuts: Tensor) -> Tensor:
    """The segment that each frame belongs to, from 0. cuts (B, F - 1) bool, True where the next frame starts one.

    -> (B, F) int64.
    """
    first = cuts.new_zeros(len(cuts), 1)
    return torch.cat([first, cuts], 1).cumsum(1)
