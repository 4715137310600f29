"""A stretch of entries in two precisions: some of each head in one, the others in another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .bits import pack_mask, unpack_mask
from .stream import Code, Coder, Stretch


@dataclass(frozen=True)
class Mixed(Coder):
    """``high`` codes ``k`` entries of each head, ``low`` the others; one bit an entry tells which is which.

    The k entries of a head are put side by side with those of the other heads, in order: r-th with r-th. Where a coder
    works in blocks, the last entry is repeated to fill the last one.

    Attributes:
        tensors: how many tensors the code of ``high`` has.
    """

    high: Coder
    low: Coder
    k: int
    tensors: int = 0

    @property
    def block(self) -> int:
        return 0

    @property
    def state(self) -> Code:
        return (*self.high.state, *self.low.state)

    @classmethod
    def stretch(cls, x: Tensor, important: Tensor, high: Coder, low: Coder) -> Stretch:
        """x (B, g, t, d) and important (B, g, t) bool, as many True in each head -> the stretch of all t."""
        k = int(important[0, 0].sum())
        order = _order(important)[..., None].expand_as(x)
        rows = x.gather(2, order)
        first = _code(high, rows[:, :, :k])
        code = (pack_mask(important), *first, *_code(low, rows[:, :, k:]))
        return Stretch(cls(high, low, k, len(first)), code, x.shape[2])

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The numbers again, float32 (B, g, t, d)."""
        order = _order(unpack_mask(code[0], shape[2]))[..., None].expand(shape)
        b, g, t, d = shape
        high = _read(self.high, code[1 : 1 + self.tensors], torch.Size((b, g, self.k, d)), code[0])
        low = _read(self.low, code[1 + self.tensors :], torch.Size((b, g, t - self.k, d)), code[0])
        rows = torch.cat([high, low], 2)
        return torch.empty_like(rows).scatter(2, order, rows)

    def select(self, rows: Tensor) -> Coder:
        """For these rows of the batch."""
        return replace(self, high=self.high.select(rows), low=self.low.select(rows))


def _order(important: Tensor) -> Tensor:
    """(B, g, t) bool -> (B, g, t) positions of the important ones in order, then of the others in order."""
    return (~important).to(torch.uint8).argsort(dim=-1, stable=True)


def _code(coder: Coder, x: Tensor) -> Code:
    t = x.shape[2]
    if not t:
        return ()
    if coder.block and (rest := -t % coder.block):
        x = torch.cat([x, x[:, :, -1:].expand(-1, -1, rest, -1)], 2)
    return coder.encode(x)


def _read(coder: Coder, code: Code, shape: torch.Size, like: Tensor) -> Tensor:
    b, g, t, d = shape
    if not t:
        return torch.zeros(shape, device=like.device)
    full = t + (-t % coder.block if coder.block else 0)
    return coder.decode(code, torch.Size((b, g, full, d)))[:, :, :t]
