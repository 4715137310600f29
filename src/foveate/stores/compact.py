"""A layer's keys and values in a compressed form: what a compression method returns instead of a map.

A method of stage cache either decides which entries stay (``reduce``) or how all of them are stored (``pack``). What
``pack`` returns is kept by the cache layer in place of the tensors, is read before every attention, and grows with
every token that is decoded. Its bytes are real: everything that is needed to read the entries back is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..method import Method
from ..tokens import Entries


class Compact(Protocol):
    """Compressed entries of one layer, (B, g, n, d) keys and values when read."""

    @property
    def nbytes(self) -> int:
        """Bytes of all storages that it holds."""
        ...

    @property
    def n(self) -> int:
        """Entries of each head."""
        ...

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, g, n, d), in the dtype they came in, made anew at every call."""
        ...

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Put (B, g, t, d) new entries behind the others."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; rows (B',) int64, repeats allowed."""
        ...

    def crop(self, n: int) -> None:
        """Keep the first n entries."""
        ...


class Attending(Compact, Protocol):
    """A compact that attends over its entries without reading all of them back.

    One with ``anywhere = True`` is asked on every device, others on a CPU only.
    """

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """As :meth:`Halves.attend`."""
        ...


class Coded(NamedTuple):
    """What a cache layer hands to our attention in place of keys and values: entries that need not be read back.

    keys, values: (B, g, 1, d) of the token that asks, which is appended once it has.
    """

    compact: Attending
    keys: Tensor
    values: Tensor

    def attend(self, q: Tensor, scaling: float) -> Tensor:
        """q (B, H, 1, d) -> (B, 1, H, d)."""
        return self.compact.attend(q, self.keys, self.values, scaling).transpose(1, 2).contiguous()

    def dense(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, g, n + 1, d), the last ones exact."""
        keys, values = self.compact.read()
        return torch.cat([keys, self.keys], 2), torch.cat([values, self.values], 2)


class PackMethod(Method, Protocol):
    """A method of stage cache that compresses: the whole of a layer's entries -> what is kept instead of them."""

    def pack(self, entries: Entries) -> Compact: ...


class Side(Protocol):
    """One half of a :class:`Compact`, keys or values: the same calls on one tensor (B, g, n, d)."""

    @property
    def n(self) -> int: ...

    def tensors(self) -> list[Tensor]:
        """All tensors held."""
        ...

    def read(self) -> Tensor: ...

    def scores(self, q: Tensor) -> Tensor:
        """Products of q (B, g, r, d) float32 with all entries: (B, g, r, n)."""
        ...

    def mix(self, p: Tensor) -> Tensor:
        """Sums of all entries with weights p (B, g, r, n) float32: (B, g, r, d)."""
        ...

    def append(self, x: Tensor) -> None: ...

    def select(self, rows: Tensor) -> None: ...

    def crop(self, n: int) -> None: ...


class Halves:
    """Keys and values that are compressed apart from each other."""

    def __init__(self, keys: Side, values: Side) -> None:
        self.keys, self.values = keys, values

    @property
    def n(self) -> int:
        """Entries of each head."""
        return self.keys.n

    @property
    def nbytes(self) -> int:
        """Bytes of all storages held."""
        return storages(self.keys.tensors() + self.values.tensors())

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values, (B, g, n, d)."""
        return self.keys.read(), self.values.read()

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Attention of one token over everything held and over its own entry, which is not held yet.

        q (B, H, 1, d), keys and values (B, g, 1, d) of the token -> (B, H, 1, d) in the dtype of q.
        """
        b, h, _, d = q.shape
        queries = q.view(b, keys.shape[1], -1, d).float() * scaling
        p = torch.cat([self.keys.scores(queries), queries @ keys.float().mT], 3).softmax(-1)
        return (self.values.mix(p[..., :-1]) + p[..., -1:] * values.float()).view(b, h, 1, -1).to(q.dtype)

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Put (B, g, t, d) new entries behind the others."""
        self.keys.append(keys)
        self.values.append(values)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch."""
        self.keys.select(rows)
        self.values.select(rows)

    def crop(self, n: int) -> None:
        """Keep the first n entries."""
        self.keys.crop(n)
        self.values.crop(n)


def storages(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind some tensors, each counted once."""
    found = {s.data_ptr(): s.nbytes() for t in tensors for s in (t.untyped_storage(),)}
    return int(sum(found.values()))
