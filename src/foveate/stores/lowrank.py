"""Entries as few bits, plus what a few bits cannot hold: outliers as they are, and a residual of low rank.

And entries as a projection to fewer channels, which is coded in turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..parts.longest import longest
from .packed import Grid, in_heads, narrow, side_by_side, small
from .stream import Code, Coder


@dataclass(frozen=True)
class Residual(Coder):
    """Quantised entries, outliers, and a product of two thin matrices for what is left, each head's own.

    Attributes:
        grid: quantises what is no outlier.
        along: "tokens" looks for outliers in each channel, "channels" in each token (over all heads).
        outliers: how many of the smallest and how many of the largest numbers there are outliers; they stand at the
            mean of their row while the others are quantised.
        rank: of the residual.
        loops: of the power iteration.
        start: (g, d, rank) it starts from, or None: fixed random numbers.
    """

    grid: Grid
    along: str
    outliers: int = 0
    rank: int = 0
    loops: int = 2
    start: Tensor | None = None

    @property
    def block(self) -> int:
        return 0

    def encode(self, x: Tensor) -> Code:
        """x (B, g, t, d) -> the code of the grid, tokens that fill no group, outliers (place, number), factors."""
        g, t = x.shape[1:3]
        flat = side_by_side(x.float())
        rows = flat.mT if self.along == "tokens" else flat
        k = min(self.outliers, rows.shape[-1] // 2)
        order = rows.argsort(dim=-1, stable=True)
        place = torch.cat([order[..., :k], order[..., rows.shape[-1] - k :]], -1)
        calm = rows.scatter(-1, place, rows.mean(-1, keepdim=True).expand_as(place))
        calm = in_heads(calm.mT if self.along == "tokens" else calm, g).to(x.dtype)
        whole = t // (self.grid.block or 1) * (self.grid.block or 1)
        index = torch.int16 if rows.shape[-1] < 1 << 15 else torch.int32
        code = (
            *self.grid.encode(calm[:, :, :whole]),
            side_by_side(calm[:, :, whole:]).clone(),
            place.to(index),
            rows.gather(-1, place).to(x.dtype),
        )
        if not self.rank:
            return code
        rest = x.float() - self._near(code, x.shape)
        left, right = power_iteration(rest, self._start(x), self.loops)
        return (*code, narrow(left, small(x)), narrow(right, small(x)))

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The numbers again, float32 (B, g, t, d)."""
        near = self._near(code, shape)
        return near + code[6].float() @ code[7].float().mT if self.rank else near

    def scores(self, code: Code, q: Tensor, shape: torch.Size) -> Tensor:
        """q (B, g, r, d) float32 -> (B, g, r, t)."""
        near = q @ self._near(code, shape).mT
        return near + (q @ code[7].float()) @ code[6].float().mT if self.rank else near

    def mix(self, code: Code, p: Tensor, shape: torch.Size) -> Tensor:
        """p (B, g, r, t) float32 -> (B, g, r, d)."""
        near = p @ self._near(code, shape)
        return near + (p @ code[6].float()) @ code[7].float().mT if self.rank else near

    def _near(self, code: Code, shape: torch.Size) -> Tensor:
        """Without the residual."""
        b, g, t, d = shape
        tail, place, numbers = code[3:6]
        whole = self.grid.decode(code[:3], torch.Size((b, g, t - tail.shape[1], d)))
        flat = torch.cat([side_by_side(whole), tail.float()], 1)
        rows = flat.mT if self.along == "tokens" else flat
        rows = rows.scatter(-1, place.long(), numbers.float())
        return in_heads(rows.mT if self.along == "tokens" else rows, g)

    def _start(self, x: Tensor) -> Tensor:
        if self.start is not None:
            return self.start.float()
        shape = (x.shape[1], x.shape[3], self.rank)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(x.device)


def power_iteration(x: Tensor, start: Tensor, loops: int) -> tuple[Tensor, Tensor]:
    """x (..., t, d) nearly as left @ right^T, (..., t, r) and (..., d, r); start (..., d, r), loops >= 1.

    Both factors are made orthonormal in the last round, before each is multiplied again.
    """
    right = start.expand(*x.shape[:-2], *start.shape[-2:])
    left = x @ right
    for i in range(loops):
        last = i == loops - 1
        if last:
            right = torch.linalg.qr(right).Q
        left = x @ right
        if last:
            left = torch.linalg.qr(left).Q
        right = x.mT @ left
    return left, right


@dataclass(frozen=True)
class Projected(Coder):
    """Fewer channels: entries times ``down``, coded, and times ``up`` when read.

    Attributes:
        inner: codes the projection, a head of r channels.
        down, up: (B or 1, g d, r) and (B or 1, r, g d).
        given: they come from a file and belong to the model, not to the cache.
        dtype: of what the inner coder is given.
    """

    inner: Coder
    down: Tensor
    up: Tensor
    given: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def block(self) -> int:
        return self.inner.block

    @property
    def state(self) -> Code:
        return () if self.given else (self.down, self.up)

    def encode(self, x: Tensor) -> Code:
        """x (B, g, t, d) -> what the inner coder makes of (B, 1, t, r)."""
        return self.inner.encode((side_by_side(x.float()) @ self.down.float())[:, None].to(self.dtype))

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The numbers again, float32 (B, g, t, d)."""
        b, g, t, _ = shape
        part = self.inner.decode(code, torch.Size((b, 1, t, self.down.shape[-1])))
        return in_heads(part[:, 0] @ self.up.float(), g)

    def scores(self, code: Code, q: Tensor, shape: torch.Size) -> Tensor:
        """q (B, g, r, d) float32 -> (B, g, r, t)."""
        b, g, r = q.shape[:3]
        down = torch.einsum("bgrd,bkgd->bgrk", q, self._up(g).expand(b, -1, -1, -1)).reshape(b, 1, g * r, -1)
        return self.inner.scores(code, down, self._inside(shape)).view(b, g, r, -1)

    def mix(self, code: Code, p: Tensor, shape: torch.Size) -> Tensor:
        """p (B, g, r, t) float32 -> (B, g, r, d)."""
        b, g, r, t = p.shape
        part = self.inner.mix(code, p.reshape(b, 1, g * r, t), self._inside(shape)).view(b, g, r, -1)
        return torch.einsum("bgrk,bkgd->bgrd", part, self._up(g).expand(b, -1, -1, -1))

    def _up(self, g: int) -> Tensor:
        """(B or 1, r, g, d)."""
        each: Tensor = self.up.float().unflatten(2, (g, -1))
        return each

    def _inside(self, shape: torch.Size) -> torch.Size:
        """What the inner coder was given of this shape."""
        return torch.Size((shape[0], 1, shape[2], self.down.shape[-1]))

    def select(self, rows: Tensor) -> Coder:
        """For these rows of the batch."""
        return self if self.given else replace(self, down=self.down[rows], up=self.up[rows])


def principal(x: Tensor, rank: int) -> Tensor:
    """x (B, g, t, d) -> (B, g d, rank): the directions, over all heads together, along which its tokens are longest."""
    return longest(side_by_side(x), rank)
