"""A stretch of entries in two precisions: some of each head in one, the others in another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from .bits import pack_mask, unpack_mask
from .stream import Code, Coder, Stretch


@dataclass(frozen=True)
class Mixed(Coder):
    """``high`` codes ``k`` entries of each head, ``low`` the others; one bit an entry tells which is which.

    The k entries of a head are put side by side with those of the other heads, in order: r-th with r-th. Where a coder
    works in blocks, the last entry is repeated to fill the last one. So it is in rows or heads that have fewer than
    the most entries of a kind.

    Attributes:
        k: the most entries that a head has in ``high``, and ``rest`` the most that one has in ``low``.
        tensors: how many tensors the code of ``high`` has.
    """

    high: Coder
    low: Coder
    k: int
    rest: int
    tensors: int = 0

    @property
    def block(self) -> int:
        return 0

    @property
    def state(self) -> Code:
        return (*self.high.state, *self.low.state)

    @classmethod
    def stretch(cls, x: Tensor, important: Tensor, high: Coder, low: Coder) -> Stretch:
        """x (B, g, t, d) and important (B, g, t) bool -> the stretch of all t."""
        t, count = x.shape[2], important.sum(-1, keepdim=True)
        k, rest = int(count.max()), t - int(count.min())
        order = _order(important)
        at = torch.arange(t, device=x.device)
        first = order.gather(2, at[:k].expand(*count.shape[:2], k).minimum((count - 1).clamp(min=0)))
        last = order.gather(2, (at[:rest] + count).clamp(max=t - 1))
        code = _code(high, _take(x, first))
        return Stretch(
            cls(high, low, k, rest, len(code)), (pack_mask(important), *code, *_code(low, _take(x, last))), t
        )

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The numbers again, float32 (B, g, t, d)."""
        b, g, t, d = shape
        important = unpack_mask(code[0], t)
        count = important.sum(-1, keepdim=True)
        high = _read(self.high, code[1 : 1 + self.tensors], torch.Size((b, g, self.k, d)), code[0])
        low = _read(self.low, code[1 + self.tensors :], torch.Size((b, g, self.rest, d)), code[0])
        rank = torch.arange(t, device=count.device).expand(b, g, t)
        rows = _take(torch.cat([high, low], 2), torch.where(rank < count, rank, self.k + rank - count))
        return torch.empty_like(rows).scatter(2, _order(important)[..., None].expand(shape), rows)

    def scores(self, code: Code, q: Tensor, shape: torch.Size) -> Tensor:
        """q (B, g, r, d) float32 -> (B, g, r, t)."""
        found = [coder.scores(part, q, size)[..., :n] for coder, part, n, size in self._halves(code, shape)]
        return torch.cat(found, 3).gather(3, self._places(code, shape[2])[:, :, None].expand(-1, -1, q.shape[2], -1))

    def mix(self, code: Code, p: Tensor, shape: torch.Size) -> Tensor:
        """p (B, g, r, t) float32 -> (B, g, r, d)."""
        at = self._places(code, shape[2])[:, :, None].expand(p.shape)
        weights = p.new_zeros(*p.shape[:3], self.k + self.rest).scatter(3, at, p)  # none where a head has fewer
        total, start = p.new_zeros(*p.shape[:3], shape[3]), 0
        for coder, part, n, size in self._halves(code, shape):
            total = total + coder.mix(part, pad(weights[..., start : start + n], (0, size[2] - n)), size)
            start += n
        return total

    def _places(self, code: Code, t: int) -> Tensor:
        """(B, g, t): where each entry stands among those of ``high`` and then those of ``low``."""
        important = unpack_mask(code[0], t)
        return torch.where(important, important.cumsum(-1) - 1, self.k - 1 + (~important).cumsum(-1))

    def _halves(self, code: Code, shape: torch.Size) -> Iterator[tuple[Coder, Code, int, torch.Size]]:
        """Coder, code, number of entries and shape as coded, of ``high`` and of ``low``, unless empty."""
        b, g, _, d = shape
        first, last = code[1 : 1 + self.tensors], code[1 + self.tensors :]
        for coder, part, n in ((self.high, first, self.k), (self.low, last, self.rest)):
            if n:
                yield coder, part, n, torch.Size((b, g, _whole(coder, n), d))

    def select(self, rows: Tensor) -> Coder:
        """For these rows of the batch."""
        return replace(self, high=self.high.select(rows), low=self.low.select(rows))


def _order(important: Tensor) -> Tensor:
    """(B, g, t) bool -> (B, g, t) positions of the important ones in order, then of the others in order."""
    return (~important).to(torch.uint8).argsort(dim=-1, stable=True)


def _take(x: Tensor, at: Tensor) -> Tensor:
    """x (B, g, t, d) at places at (B, g, m)."""
    return x.gather(2, at[..., None].expand(-1, -1, -1, x.shape[3]))


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
    return coder.decode(code, torch.Size((b, g, _whole(coder, t), d)))[:, :, :t]


def _whole(coder: Coder, t: int) -> int:
    """Entries that the code of t of them has room for."""
    return t + (-t % coder.block if coder.block else 0)
