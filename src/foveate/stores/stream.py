"""Entries of which the old ones are coded and the first and newest ones are whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .folded import SLICE

#: What a coder makes of a stretch of entries: tensors that list the rows of the batch first.
Code = tuple[Tensor, ...]


@dataclass(frozen=True)
class Coder:
    """How a stretch of entries is written down; each way is a subclass.

    Attributes:
        block: how many tokens a block has where blocks are coded one by one: each tensor of a code then lists blocks
            second, (B, blocks, ...), and longer stretches are made by putting codes behind each other. 0 where a
            stretch is coded as a whole.
        state: tensors that belong to all stretches, with the rows of the batch first.
    """

    @property
    def block(self) -> int:
        raise NotImplementedError

    @property
    def state(self) -> Code:
        return ()

    def encode(self, x: Tensor) -> Code:
        """x (B, g, t, d), t a multiple of the block, in the dtype of the model."""
        raise NotImplementedError

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The entries again, as float32 of this shape (B, g, t, d)."""
        raise NotImplementedError

    def select(self, rows: Tensor) -> Coder:
        """For these rows of the batch; a coder with state returns another one."""
        return self

    def scores(self, code: Code, q: Tensor, shape: torch.Size) -> Tensor:
        """Products of q (B, g, r, d) float32 with the entries of this shape (B, g, t, d): (B, g, r, t)."""
        return torch.cat([q @ x.mT for _, x in self._read(code, shape)], 3)

    def mix(self, code: Code, p: Tensor, shape: torch.Size) -> Tensor:
        """Sums of the entries of this shape (B, g, t, d) with weights p (B, g, r, t) float32: (B, g, r, d)."""
        return torch.stack([p[..., at] @ x for at, x in self._read(code, shape)]).sum(0)

    def _read(self, code: Code, shape: torch.Size) -> Iterator[tuple[slice, Tensor]]:
        """The entries, some at a time where they are coded in blocks: which, and (B, g, some, d) float32."""
        b, g, t, d = shape
        step = max(1, SLICE // self.block) if self.block else 0
        for at in range(0, t, step * self.block or max(1, t)):
            stop = min(t, at + step * self.block) if step else t
            blocks = slice(at // self.block, stop // self.block) if step else slice(None)
            part = tuple(c[:, blocks] for c in code) if step else code
            yield slice(at, stop), self.decode(part, torch.Size((b, g, stop - at, d)))


@dataclass(frozen=True)
class Stretch:
    """A run of ``t`` coded entries."""

    coder: Coder
    code: Code
    t: int


class Stream:
    """Keys or values of one layer, (B, g, n, d): sinks whole, then coded stretches, then recent ones whole.

    Args:
        x: what there is so far.
        coder: how entries are coded once they are old.
        step: they are coded in multiples of so many.
        hold: so many of the newest ones always stay whole.
        sinks: so many of the first ones stay whole.
        first: a stretch coded in some other way, of the first ``first.t`` entries of x.
    """

    def __init__(
        self, x: Tensor, coder: Coder, step: int = 1, hold: int = 0, sinks: int = 0, first: Stretch | None = None
    ) -> None:
        self.coder, self.step, self.hold, self.sinks = coder, step, hold, sinks
        self.stretches = [] if first is None else [first]
        self.sink = self.recent = x[:, :, :0].clone()  # a view would hold all of x
        self.append(x if first is None else x[:, :, first.t :])

    @property
    def coded(self) -> int:
        """Entries that are coded."""
        return sum(s.t for s in self.stretches)

    @property
    def n(self) -> int:
        """Entries of each head."""
        return self.sink.shape[2] + self.coded + self.recent.shape[2]

    def tensors(self) -> list[Tensor]:
        """All tensors held."""
        codes = [s.code for s in self.stretches] + [s.coder.state for s in self.stretches]
        return [self.sink, self.recent, *self.coder.state, *(t for code in codes for t in code)]

    def read(self) -> Tensor:
        """(B, g, n, d)."""
        whole = self.recent
        return torch.cat([self.sink, *(self._plain(s).to(whole.dtype) for s in self.stretches), whole], 2)

    def scores(self, q: Tensor) -> Tensor:
        """Products of q (B, g, r, d) float32 with all entries: (B, g, r, n)."""
        coded = [s.coder.scores(s.code, q, self._shape(s)) for s in self.stretches]
        return torch.cat([products(q, self.sink), *coded, products(q, self.recent)], 3)

    def mix(self, p: Tensor) -> Tensor:
        """Sums of all entries with weights p (B, g, r, n) float32: (B, g, r, d)."""
        sizes = [self.sink.shape[2], *(s.t for s in self.stretches), self.recent.shape[2]]
        first, *mine, last = p.split(sizes, 3)
        total = sums(first, self.sink) + sums(last, self.recent)
        for s, w in zip(self.stretches, mine):
            total = total + s.coder.mix(s.code, w, self._shape(s))
        return total

    def append(self, x: Tensor) -> None:
        """Put x (B, g, t, d) behind the others."""
        if not self.stretches and not self.recent.shape[2] and self.sink.shape[2] < self.sinks:
            more = self.sinks - self.sink.shape[2]
            self.sink, x = torch.cat([self.sink, x[:, :, :more]], 2), x[:, :, more:]
        self._take(torch.cat([self.recent, x], 2))

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch."""
        self.sink, self.recent, self.coder = self.sink[rows], self.recent[rows], self.coder.select(rows)
        self.stretches = [
            replace(s, code=tuple(t[rows] for t in s.code), coder=s.coder.select(rows)) for s in self.stretches
        ]

    def crop(self, n: int) -> None:
        """Keep the first n entries. Of a stretch that is cut, what is no whole block is read and counts as recent."""
        self.sink = self.sink[:, :, :n].clone()
        n -= self.sink.shape[2]
        held, recent = self.stretches, self.recent[:, :, : max(0, n - self.coded)]
        self.stretches = []
        for s in held:
            left = min(n, s.t)
            n -= left
            if left == s.t:
                self.stretches.append(s)
            elif left:
                recent = self._plain(s)[:, :, :left].to(recent.dtype)
                if s.coder.block and (blocks := left // s.coder.block):
                    whole = blocks * s.coder.block
                    self.stretches.append(Stretch(s.coder, tuple(t[:, :blocks].clone() for t in s.code), whole))
                    recent = recent[:, :, whole:]
        self._take(recent)

    def _shape(self, s: Stretch) -> torch.Size:
        b, g, _, d = self.recent.shape
        return torch.Size((b, g, s.t, d))

    def _plain(self, s: Stretch) -> Tensor:
        return s.coder.decode(s.code, self._shape(s))

    def _take(self, recent: Tensor) -> None:
        """Code what is due of the recent entries."""
        old = self.coded
        due = max(0, old + recent.shape[2] - self.hold) // self.step * self.step - old
        if due > 0 and self.coder.block:
            due = due // self.coder.block * self.coder.block
        if due > 0:
            self._write(recent[:, :, :due])
            recent = recent[:, :, due:]
        self.recent = recent.clone(memory_format=torch.contiguous_format)  # a view would hold what was coded

    def _write(self, x: Tensor) -> None:
        code, t = self.coder.encode(x), x.shape[2]
        last = self.stretches[-1] if self.stretches else None
        if last is not None and self.coder.block and last.coder is self.coder:
            code, t = tuple(torch.cat(pair, 1) for pair in zip(last.code, code)), last.t + t
            self.stretches.pop()
        self.stretches.append(Stretch(self.coder, code, t))


class Whole:
    """Keys or values that are stored as they are."""

    def __init__(self, x: Tensor) -> None:
        self.x = x.clone(memory_format=torch.contiguous_format)

    @property
    def n(self) -> int:
        """Entries of each head."""
        return self.x.shape[2]

    def tensors(self) -> list[Tensor]:
        """All tensors held."""
        return [self.x]

    def read(self) -> Tensor:
        """(B, g, n, d)."""
        return self.x

    def scores(self, q: Tensor) -> Tensor:
        """Products of q (B, g, r, d) float32 with all entries: (B, g, r, n)."""
        return products(q, self.x)

    def mix(self, p: Tensor) -> Tensor:
        """Sums of all entries with weights p (B, g, r, n) float32: (B, g, r, d)."""
        return sums(p, self.x)

    def append(self, x: Tensor) -> None:
        """Put x (B, g, t, d) behind the others."""
        self.x = torch.cat([self.x, x], 2)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch."""
        self.x = self.x[rows]

    def crop(self, n: int) -> None:
        """Keep the first n entries."""
        self.x = self.x[:, :, :n].clone()


def products(q: Tensor, x: Tensor) -> Tensor:
    """q (B, g, r, d) float32 with x (B, g, n, d) of any dtype: (B, g, r, n) float32."""
    return torch.cat([q @ some.float().mT for some in x.split(SLICE, 2)], 3)


def sums(p: Tensor, x: Tensor) -> Tensor:
    """x (B, g, n, d) of any dtype with weights p (B, g, r, n) float32: (B, g, r, d) float32."""
    total = p.new_zeros(*p.shape[:3], x.shape[3])
    for w, some in zip(p.split(SLICE, 3), x.split(SLICE, 2)):
        total = total + w @ some.float()
    return total
