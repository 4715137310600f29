"""What came of a run of masked-diffusion decoding: how many forwards, over how many positions, in which blocks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple


class Part(NamedTuple):
    """One block: where it started in the text, how many positions it had, and the forwards it took."""

    start: int
    size: int
    forwards: int


@dataclass
class Report:
    """Of one call, summed over its rows where they were decoded one after the other.

    Attributes:
        schedule: as text. rows, length: of the text that was generated (length before any early stop).
        forwards: calls of the model; with guidance one call reads two rows for each.
        positions: rows times positions, over all forwards: what was computed.
        blocks: in order.
        seconds: of the whole call.
    """

    schedule: str
    rows: int = 0
    length: int = 0
    forwards: int = 0
    positions: int = 0
    blocks: list[Part] = field(default_factory=list)
    seconds: float = 0.0
    _begun: float = field(default_factory=time.perf_counter, repr=False)

    def read(self, rows: int, positions: int) -> int:
        """Count a forward; returns its number."""
        self.forwards += 1
        self.positions += rows * positions
        return self.forwards - 1

    def end(self) -> Report:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._begun
        return self

    @property
    def tokens_per_forward(self) -> float:
        """Positions of one row that a forward settled, on average."""
        return self.length * self.rows / self.forwards if self.forwards else 0.0

    def __str__(self) -> str:
        return (
            f"{self.schedule}: {self.forwards} forwards for {self.rows} x {self.length} tokens "
            f"({self.positions:,} positions read), {self.seconds:.2f} s"
        )
