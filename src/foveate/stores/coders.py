"""Coders around and beside the quantisers: as is, scaled, some channels only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .packed import in_heads, side_by_side
from .stream import Code, Coder, products, sums


@dataclass(frozen=True)
class Plain(Coder):
    """Entries as they are."""

    @property
    def block(self) -> int:
        return 1

    def encode(self, x: Tensor) -> Code:
        """x (B, g, t, d) -> (B, t, g d)."""
        return (side_by_side(x).clone(),)  # x may be a view of more

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The numbers again, float32 (B, g, t, d)."""
        return in_heads(code[0].float(), shape[1])

    def scores(self, code: Code, q: Tensor, shape: torch.Size) -> Tensor:
        """q (B, g, r, d) float32 -> (B, g, r, t)."""
        return products(q, in_heads(code[0], shape[1]))

    def mix(self, code: Code, p: Tensor, shape: torch.Size) -> Tensor:
        """p (B, g, r, t) float32 -> (B, g, r, d)."""
        return sums(p, in_heads(code[0], shape[1]))


@dataclass(frozen=True)
class Scaled(Coder):
    """Each channel is divided by a factor before it is coded, and multiplied by it when it is read.

    Attributes:
        inner: codes the quotients, which come to it as float32.
        factor: (B, g, 1, d), not zero.
    """

    inner: Coder
    factor: Tensor

    @property
    def block(self) -> int:
        return self.inner.block

    @property
    def state(self) -> Code:
        return (self.factor, *self.inner.state)

    def encode(self, x: Tensor) -> Code:
        """x (B, g, t, d) -> what the inner coder makes of x / factor."""
        return self.inner.encode(x.float() / self.factor.float())

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The numbers again, float32 (B, g, t, d)."""
        return self.inner.decode(code, shape) * self.factor.float()

    def scores(self, code: Code, q: Tensor, shape: torch.Size) -> Tensor:
        """q (B, g, r, d) float32 -> (B, g, r, t)."""
        return self.inner.scores(code, q * self.factor.float(), shape)

    def mix(self, code: Code, p: Tensor, shape: torch.Size) -> Tensor:
        """p (B, g, r, t) float32 -> (B, g, r, d)."""
        return self.inner.mix(code, p, shape) * self.factor.float()

    def select(self, rows: Tensor) -> Coder:
        """For these rows of the batch."""
        return replace(self, inner=self.inner.select(rows), factor=self.factor[rows])


@dataclass(frozen=True)
class Channels(Coder):
    """Only some channels are stored, the others are zero when read.

    Attributes:
        index: (B, g, k) int16, which channels.
    """

    index: Tensor

    @property
    def block(self) -> int:
        return 1

    @property
    def state(self) -> Code:
        return (self.index,)

    def encode(self, x: Tensor) -> Code:
        """x (B, g, t, d) -> (B, t, g k)."""
        index = self.index.long()[:, :, None].expand(-1, -1, x.shape[2], -1)
        return (side_by_side(x.gather(3, index)).contiguous(),)

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The numbers again, float32 (B, g, t, d)."""
        part = in_heads(code[0].float(), shape[1])
        return self._spread(part, shape[3])

    def scores(self, code: Code, q: Tensor, shape: torch.Size) -> Tensor:
        """q (B, g, r, d) float32 -> (B, g, r, t)."""
        index = self.index.long()[:, :, None].expand(-1, -1, q.shape[2], -1)
        return products(q.gather(3, index), in_heads(code[0], shape[1]))

    def mix(self, code: Code, p: Tensor, shape: torch.Size) -> Tensor:
        """p (B, g, r, t) float32 -> (B, g, r, d)."""
        return self._spread(sums(p, in_heads(code[0], shape[1])), shape[3])

    def _spread(self, part: Tensor, d: int) -> Tensor:
        """part (B, g, t, k) -> (B, g, t, d), zero at the other channels."""
        index = self.index.long()[:, :, None].expand_as(part)
        return part.new_zeros(*part.shape[:3], d).scatter(3, index, part)

    def select(self, rows: Tensor) -> Coder:
        """For these rows of the batch."""
        return replace(self, index=self.index[rows])
