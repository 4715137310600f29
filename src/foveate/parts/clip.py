"""One video alone, and tokens of it averaged: in groups of places, of which some stand for a whole segment."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..reduction import Reduction
from ..tokens import Tokens
from .film import Film


class Clip:
    """The frames and places of one video that hold a token.

    Attributes:
        x: (n, D) its tokens.
        frame, place: of each token, (n,) int64, both from 0 and without gaps.
        table: (F, P) int64, the position of the token in that place, or -1 where there is none.
    """

    def __init__(self, x: Tensor, grid: Tensor) -> None:
        film = Film(Tokens(x[None], grid=grid[None]))
        self.x, self.n, self.place = x, len(x), film.place[0]
        used, self.frame = film.frame[0].unique(return_inverse=True)
        self.table = film.table[0, used]
        self.frames, self.places = self.table.shape
        self.there = self.table >= 0
        self.sizes = self.there.sum(-1)

    def laid(self, x: Tensor, empty: float = 0.0) -> Tensor:
        """x (n, ...) -> (F, P, ...), ``empty`` where no token stands."""
        there = self.there.view(self.frames, self.places, *[1] * (x.ndim - 1))
        return x[self.table.clamp(min=0)].masked_fill(~there, empty)

    def means(self) -> Tensor:
        """The mean token of each frame, (F, D) float32."""
        total = self.x.new_zeros(self.frames, self.x.shape[1], dtype=torch.float32)
        return total.index_add(0, self.frame, self.x.float()) / self.sizes[:, None]

    def likeness(self) -> Tensor:
        """Cosine of each token with the one in the same place one frame earlier, -1 where there is none: (F, P)."""
        unit = self.laid(normalize(self.x.float(), dim=-1))
        like = (unit[1:] * unit[:-1]).sum(-1).masked_fill(~(self.there[1:] & self.there[:-1]), -1)
        return torch.cat([torch.full_like(unit[:1, :, 0], -1), like])


class Averaged:
    """A clip in which the still tokens of a segment that share a place are one token, in line where the first was.

    Groups are rows: first the still tokens of each segment, then what is left of each frame.

    Attributes:
        at: (G, P) int64, the position that each token inherits, or -1 where there is none.
        x: (G, P, D) float32 the tokens, and ``there`` (G, P) whether there is one; ``sizes`` (G,) counts them.
        cell: (n,) the group and place, as one number, of each token of the clip; ``still`` (n,) bool.
        segments: how many of the groups are segments.
    """

    def __init__(self, clip: Clip, segment: Tensor, still: Tensor) -> None:
        self.n, self.segments, places = clip.n, int(segment[-1]) + 1, clip.places
        self.still = still[clip.frame, clip.place]
        group = torch.where(self.still, segment[clip.frame], self.segments + clip.frame)
        self.cell = group * places + clip.place
        self.shape = (self.segments + clip.frames, places)
        cells = self.shape[0] * places
        position = torch.arange(self.n, device=self.cell.device)
        at = torch.full((cells,), self.n, device=self.cell.device).scatter_reduce(0, self.cell, position, "amin")
        self.count = self.cell.bincount(minlength=cells)
        total = torch.zeros(cells, clip.x.shape[1], device=clip.x.device).index_add(0, self.cell, clip.x.float())
        self.x = (total / self.count.clamp(min=1)[:, None]).view(*self.shape, -1)
        self.at = at.masked_fill(self.count == 0, -1).view(self.shape)
        self.there = self.at >= 0
        self.sizes = self.there.sum(-1)

    def laid(self, score: Tensor, empty: float) -> Tensor:
        """score (n,) of tokens that are not still -> (G, P), ``empty`` elsewhere."""
        flat = score.new_full((self.count.numel(),), empty)
        return flat.index_copy(0, self.cell[~self.still], score[~self.still]).view(self.shape)

    def joined(self, into: Tensor, weight: Tensor) -> Reduction:
        """Tokens join one of their group. into (G, P): its place, -1 for none, weight (G, P): their share in it.

        -> the map of the clip, one row.
        """
        to = torch.where(into >= 0, self.at.gather(1, into.clamp(min=0)), -1).flatten()[self.cell]
        share = (weight.flatten() / self.count.clamp(min=1))[self.cell] * (to >= 0)
        r = Reduction.merge(to[None])
        return Reduction(r.keep, r.assign, share[None], None, bool((share[to >= 0] == 1).all()))


def spared(clip: Clip, segment: Tensor, still: Tensor, m: int) -> Tensor:
    """Fewer still tokens, if otherwise less than m were left: those least like the frame before stand alone again."""
    gone = still.clone()
    gone[0] = False
    gone[1:] &= (segment[1:] == segment[:-1])[:, None]
    more = m - (clip.n - int(gone.sum()))
    if more <= 0:
        return still
    alone = clip.likeness().masked_fill(~gone, torch.inf).flatten().argsort(stable=True)[:more]
    return still.flatten().index_fill(0, alone, False).view_as(still)


def blend(into: Tensor, beta: float | None = None) -> Tensor:
    """Shares in a cluster: all alike, or ``beta`` for its centre and all others alike. into (G, P) -> (G, P)."""
    at = torch.arange(into.shape[1], device=into.device)
    size = torch.zeros_like(into).scatter_add(1, into.clamp(min=0), (into >= 0).long())
    size = size.gather(1, into.clamp(min=0)).clamp(min=1)
    if beta is None:
        return 1 / size
    shared = torch.where(into == at, beta, (1 - beta) / (size - 1).clamp(min=1))
    return torch.where(size == 1, 1.0, shared)
