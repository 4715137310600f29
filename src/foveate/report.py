"""What a plan did and what it cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .method import STAGES
from .reduction import Reduction

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class Row:
    """One method at one place, summed over the calls inside the block.

    Attributes:
        stage: encoder, inputs, layers, cache or decode.
        method: the method as text.
        layer: 0-based layer for methods inside a stack, else None.
        tokens_in, tokens_out: tokens before and after (entries a head for the cache), summed over rows and items.
        ms: time spent deciding and shortening, in milliseconds.
        flops, flops_full: forward FLOPs of the part of the model this method shortens, with and without it.
        kv_bytes, kv_bytes_full: bytes of keys and values held right after prefill, and without this method.
        note: anything the user should know.
    """

    stage: str
    method: str
    layer: int | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    ms: float = 0.0
    flops: float = 0.0
    flops_full: float = 0.0
    kv_bytes: int = 0
    kv_bytes_full: int = 0
    note: str = ""


@dataclass(frozen=True)
class Kept:
    """One decision, for drawing. ``where``: (n,) positions in the prompt of the reduction's inputs, or None."""

    stage: str
    method: str
    row: int
    item: int
    layer: int | None
    reduction: Reduction
    where: torch.Tensor | None = None


@dataclass
class Report:
    """The value of :func:`foveate.apply`; it fills up while the model runs inside the block.

    ``encoded``: for each run of a shortened vision tower, its map up to the features that are read; in the tower's own
    order, class tokens included (groups of patches, for packed towers).
    """

    plan: str = ""
    rows: list[Row] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    encoded: list[Reduction] = field(default_factory=list)
    declined: list[str] = field(default_factory=list)
    prefills: int = 0
    flops: float = 0.0
    flops_full: float = 0.0
    kv_bytes: int = 0
    kv_bytes_full: int = 0
    decode: dict[str, float] = field(default_factory=dict)

    def row(self, stage: str, method: str, layer: int | None = None) -> Row:
        """The row of this method at this place, made on first use."""
        for r in self.rows:
            if (r.stage, r.method, r.layer) == (stage, method, layer):
                return r
        self.rows.append(Row(stage, method, layer))
        return self.rows[-1]

    @contextmanager
    def clock(self, row: Row, device: torch.device) -> Iterator[None]:
        """Add the time of the block to ``row.ms``; on a GPU it is read when the report is, so nothing waits for it."""
        if device.type != "cuda":
            start = time.perf_counter()
            yield
            row.ms += (time.perf_counter() - start) * 1e3
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self._pending.append((row, begin, end))

    _pending: list[tuple[Row, Any, Any]] = field(default_factory=list, repr=False)

    def _settle(self) -> None:
        for row, begin, end in self._pending:
            end.synchronize()
            row.ms += begin.elapsed_time(end)
        self._pending.clear()

    def ordered(self) -> list[Row]:
        """The rows in path order."""
        return sorted(self.rows, key=lambda r: (STAGES.index(r.stage), -1 if r.layer is None else r.layer))

    def decline(self, reason: str) -> None:
        """Note, once, that the guard left a method out."""
        if reason not in self.declined:
            self.declined.append(reason)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the reductions themselves are left out."""
        self._settle()
        return {
            "plan": self.plan,
            "sites": [asdict(r) for r in self.ordered()],
            "prefills": self.prefills,
            "flops": self.flops,
            "flops_full": self.flops_full,
            "kv_bytes": self.kv_bytes,
            "kv_bytes_full": self.kv_bytes_full,
            "decode": dict(self.decode),
            "declined": list(self.declined),
        }

    def table(self) -> Table:
        """A short table for people."""
        from rich.table import Table

        self._settle()
        table = Table(box=None, pad_edge=False)
        for name in ("site", "method", "tokens in", "out", "ms", "GFLOPs", "full", "KV", "full KV"):
            words = name in ("site", "method")
            # numbers are never cut; on a narrow terminal the method's text takes more lines instead
            table.add_column(name, justify="left" if words else "right", no_wrap=name != "method", overflow="fold")
        for r in self.ordered():
            site = r.stage if r.layer is None else f"{r.stage} {r.layer}"
            cells = (*_counts(r), *_flops(r.flops, r.flops_full), *_bytes(r.kv_bytes, r.kv_bytes_full))
            table.add_row(site, r.method, *cells)
        total = (*_flops(self.flops, self.flops_full), *_bytes(self.kv_bytes, self.kv_bytes_full))
        table.add_row("total", "", "", "", f"{sum(r.ms for r in self.rows):.1f}", *total, style="bold")
        return table


def _counts(r: Row) -> tuple[str, str, str]:
    return f"{r.tokens_in:,}" if r.tokens_in else "", f"{r.tokens_out:,}" if r.tokens_in else "", f"{r.ms:.1f}"


def _flops(here: float, full: float) -> tuple[str, str]:
    return (f"{here / 1e9:,.2f}", f"{full / 1e9:,.2f}") if full else ("", "")


def _bytes(here: int, full: int) -> tuple[str, str]:
    return (human(here), human(full)) if full else ("", "")


def human(n: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return ""
