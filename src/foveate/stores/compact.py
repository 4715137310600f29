"""A layer's keys and values in a compressed form: what a compression method returns instead of a map.

A method of stage cache either decides which entries stay (``reduce``) or how all of them are stored (``pack``). What
``pack`` returns is kept by the cache layer in place of the tensors, is read before every attention, and grows with
every token that is decoded. Its bytes are real: everything that is needed to read the entries back is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

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
