"""Entries on three tiers: the device, the host's memory, and files. A step reads the few chunks that its query needs.

Entries are cut into chunks of tokens. Of each chunk the largest and smallest key channels always stay on the device;
they tell which chunks a query may care about (``parts.chunk_bounds``), and attention over those, and over the newest
entries, is exact. Chunks that were chosen lately are on the device, the next ones in the host's memory, the others in
files; away from the device they may be kept in few bits. A chunk's memory is freed only once its file is durable, so a
write that fails loses nothing; what is read from a file is used only if it has the hash it was written with.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..parts.budget import floor_budget
from ..parts.chunk_bounds import abstracts, choose, coarser
from . import files
from .compact import storages
from .spill import DEVICE, DISK, HOST, Chunk, Form, Scratch, Spill

#: What is left of a chunk's heat after a step that did not choose it.
COOLING = 0.9


@dataclass
class Row:
    """The entries of one row of the batch: closed chunks, and the newest ones, (g, t, d)."""

    chunks: list[Chunk]
    fine: tuple[Tensor, Tensor]
    coarse: tuple[Tensor, Tensor]
    keys: Tensor
    values: Tensor
    read: dict[int, int] = field(default_factory=lambda: {DEVICE: 0, HOST: 0, DISK: 0})


class Tiered:
    """A :class:`foveate.stores.compact.Compact` of one layer.

    Args:
        keys, values: (B, g, n, d).
        size: tokens of a chunk, and ``fan`` chunks that are ruled out together.
        keep: share or number of entries that a step reads, the newest ones not counted.
        device, host: share or number of a row's entries that may be in the memory of each.
        recent: so many of the newest entries at least are in no chunk.
        heat: (B, n), how much each entry matters so far, or None: later ones matter more.
        folder: where files are put, in a folder of their own; "" for the system's temporary folder.
        bits: of an entry's numbers away from the device (8, 4, 3 or 2), or None: as they are.
        codes: by row and chunk, the codes that a chunk had already, or None; see :meth:`saved`.
    """

    anywhere = True  # attention runs over it on every device, not only where decoding is slow

    def __init__(
        self,
        keys: Tensor,
        values: Tensor,
        *,
        size: int,
        fan: int,
        keep: float | int,
        device: float | int,
        host: float | int,
        recent: int,
        heat: Tensor | None = None,
        folder: str = "",
        bits: int | None = None,
        codes: list[list[list[Tensor] | None]] | None = None,
    ) -> None:
        self.size, self.fan, self.keep, self.recent = size, fan, keep, recent
        self.limits = (device, host)
        self.folder, self.bits = folder, bits
        self.scratch: Scratch | None = None
        none = keys[0, :, :0]
        self.rows = [
            Row([], (none.clone(), none.clone()), (none.clone(), none.clone()), k[:, :0].clone(), v[:, :0].clone())
            for k, v in zip(keys, values)
        ]
        for i, row in enumerate(self.rows):
            self._extend(row, keys[i], values[i], None if heat is None else heat[i])
        for row, coded in zip(self.rows, codes or ()):
            for chunk, one in zip(row.chunks, coded):
                chunk.codes = one
        self._settle_all()
        for chunk in self._chunks():
            if chunk.tier == DEVICE:
                chunk.codes = None

    @property
    def n(self) -> int:
        """Entries of each head."""
        return self.size * len(self.rows[0].chunks) + self.rows[0].keys.shape[1] if self.rows else 0

    @property
    def nbytes(self) -> int:
        """Bytes in memory, on device and host together, the chunks' abstracts included."""
        return storages(self._abstracts() + [t for c in self._chunks() for t in c.tensors])

    @property
    def disk_bytes(self) -> int:
        """Bytes of all files."""
        used = {id(c.spill): c.spill for c in self._chunks() if c.spill is not None}
        return sum(spill.nbytes for spill in used.values())

    def tiers(self) -> dict[str, int]:
        """Bytes on each tier: "device", "host" and "disk" (files of chunks that are in memory again count as well)."""
        on = [storages(t for c in self._chunks() if c.tier == i for t in c.tensors) for i in (0, 1)]
        return {"device": on[0] + storages(self._abstracts()), "host": on[1], "disk": self.disk_bytes}

    def fetched(self) -> dict[str, int]:
        """Chunks that steps have read so far, by the tier they came from."""
        return {name: sum(r.read[i] for r in self.rows) for i, name in enumerate(("device", "host", "disk"))}

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, g, n, d), all of them."""
        made = []
        for row in self.rows:
            parts = [c.read(row.keys.device) for c in row.chunks] + [(row.keys, row.values)]
            made.append([torch.cat(side, 1) for side in zip(*parts)])
        keys, values = (torch.stack(side) for side in zip(*made))
        return keys, values

    def saved(self) -> dict[str, Any]:
        """What it takes to make it again, with everything read into memory."""
        keys, values = self.read()
        return {
            "keys": keys,
            "values": values,
            "size": self.size,
            "fan": self.fan,
            "keep": self.keep,
            "device": self.limits[0],
            "host": self.limits[1],
            "recent": self.recent,
            "folder": self.folder,
            "heat": [[c.heat for c in row.chunks] for row in self.rows],
            "bits": self.bits,
            "codes": None if self.bits is None else [[self._code(c) for c in row.chunks] for row in self.rows],
        }

    @staticmethod
    def _code(chunk: Chunk) -> list[Tensor] | None:
        return None if chunk.tier == DEVICE else [t.clone() for t in chunk.away()]

    @classmethod
    def revive(cls, saved: dict[str, Any]) -> Tiered:
        """The reverse of :meth:`saved`: chunks have the heat they had."""
        heat = torch.tensor(saved["heat"]).repeat_interleave(saved["size"], 1) / saved["size"]
        rest = saved["keys"].shape[2] - heat.shape[1]
        return cls(**saved | {"heat": torch.cat([heat, torch.zeros(len(heat), rest)], 1)})

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Exact attention of one token over the chunks it may care about, the newest entries and its own.

        q (B, H, 1, d), keys and values (B, g, 1, d) of the token, which are not held yet -> (B, H, 1, d').
        """
        each = zip(self.rows, q, keys, values)
        return torch.stack([self._attend(row, one, k, v, scaling) for row, one, k, v in each])

    def _attend(self, row: Row, q: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        device = row.keys.device
        n = self.size * len(row.chunks)
        chosen: list[int] = []
        if row.chunks:
            m = self.keep if isinstance(self.keep, int) else floor_budget(self.keep, n)
            chosen = choose(q[:, 0] * scaling, row.fine, row.coarse, self.size, self.fan, m).tolist()
        hands = {i: row.chunks[i].read(device) for i in chosen}
        for i, chunk in enumerate(row.chunks):
            chunk.heat *= COOLING
            if i in hands:
                chunk.heat += 1
                row.read[chunk.tier] += 1
        parts = [*hands.values(), (row.keys, row.values), (keys, values)]
        k, v = (torch.cat(side, 1)[None] for side in zip(*parts))
        queries = q.view(1, k.shape[1], -1, q.shape[-1])  # query heads of one KV head, as if they were more queries
        out = scaled_dot_product_attention(queries, k, v, scale=scaling)
        self._settle(row, hands)
        for path in {s.path for i in chosen if row.chunks[i].tier == DISK and (s := row.chunks[i].spill) is not None}:
            files.ahead(path)  # what one step reads the next one mostly reads again
        return out.view(q.shape[0], 1, -1)

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Put (B, g, t, d) new entries behind the others."""
        for row, k, v in zip(self.rows, keys, values):
            self._extend(row, k, v, None)
        self._settle_all()

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        self.rows = [copy.copy(row) for row in (self.rows[r] for r in rows.tolist())]
        for row in self.rows:  # what lies in memory or in a file is never changed, so rows may share it
            row.chunks, row.read = [copy.copy(c) for c in row.chunks], dict(row.read)

    def crop(self, n: int) -> None:
        """Keep the first n entries; what is left of a chunk that is cut becomes newest entries."""
        for row in self.rows:
            whole = self.size * len(row.chunks)
            if n >= whole:
                row.keys, row.values = row.keys[:, : n - whole].clone(), row.values[:, : n - whole].clone()
                continue
            full, rest = divmod(n, self.size)
            k, v = row.chunks[full].read(row.keys.device)
            row.keys, row.values = k[:, :rest].clone(), v[:, :rest].clone()
            row.chunks = row.chunks[:full]
            high, low = (t[:, :full].clone() for t in row.fine)
            row.fine, row.coarse = (high, low), coarser(high, low, self.fan)

    def _extend(self, row: Row, keys: Tensor, values: Tensor, heat: Tensor | None) -> None:
        """Put (g, t, d) behind a row's entries, and close the chunks that are due."""
        keys, values = torch.cat([row.keys, keys], 1), torch.cat([row.values, values], 1)
        due = max(0, keys.shape[1] - self.recent) // self.size
        end = due * self.size
        # clones: a view would hold everything it was cut from
        row.keys, row.values = keys[:, end:].clone(), values[:, end:].clone()
        if not due:
            return
        for i, (k, v) in enumerate(zip(keys[:, :end].split(self.size, 1), values[:, :end].split(self.size, 1))):
            at = slice(i * self.size, (i + 1) * self.size)
            form = None if self.bits is None else Form(self.bits, k.shape, v.shape, k.dtype)
            row.chunks.append(Chunk(k.clone(), v.clone(), 0.0 if heat is None else float(heat[at].sum()), form=form))
        high, low = (torch.cat(side, 1) for side in zip(row.fine, abstracts(keys[:, :end], self.size)))
        row.fine, row.coarse = (high, low), coarser(high, low, self.fan)

    def _settle_all(self) -> None:
        """Once all rows have their new entries: a write that fails leaves every row whole."""
        for row in self.rows:
            self._settle(row, {})

    def _settle(self, row: Row, hands: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Move chunks to the tier that their heat gives them; up only what was read anyway."""
        n = self.size * len(row.chunks) + row.keys.shape[1]
        room = [(x if isinstance(x, int) else int(x * n)) // self.size for x in self.limits]
        order = sorted(range(len(row.chunks)), key=lambda i: (-row.chunks[i].heat, -i))
        down: list[Chunk] = []
        for place, i in enumerate(order):
            chunk = row.chunks[i]
            tier = DEVICE if place < room[0] else HOST if place < sum(room) else DISK
            if tier == DISK and chunk.tier != DISK:
                down.append(chunk)
            elif tier < chunk.tier and i in hands:
                chunk.lift(*hands[i], tier)
            elif tier == HOST and chunk.tier == DEVICE:
                chunk.lower()
        self._write([c for c in down if c.spill is None])
        for chunk in down:
            chunk.leave()

    def _write(self, chunks: list[Chunk]) -> None:
        """Put chunks into one file; nothing is freed before it is durable."""
        if not chunks:
            return
        self.scratch = self.scratch or Scratch(self.folder)
        tensors = [{f"{i}.{j}": t for j, t in enumerate(c.away())} for i, c in enumerate(chunks)]
        spill = Spill(self.scratch, {name: t for one in tensors for name, t in one.items()})
        for i, (chunk, one) in enumerate(zip(chunks, tensors)):
            chunk.spill, chunk.name, chunk.sha = spill, str(i), files.digest(one)

    def _chunks(self) -> list[Chunk]:
        return [c for row in self.rows for c in row.chunks]

    def _abstracts(self) -> list[Tensor]:
        """What is always on the device."""
        return [t for r in self.rows for t in (*r.fine, *r.coarse, r.keys, r.values)]


def tiers(cache: Any) -> dict[str, int]:
    """Bytes of a whole cache on each tier: "device", "host" and "disk". Layers without tiers count as "device"."""
    total = {"device": 0, "host": 0, "disk": 0}
    for layer in cache.layers:
        compact = getattr(layer, "compact", None)
        here = compact.tiers() if isinstance(compact, Tiered) else {"device": int(getattr(layer, "nbytes", 0))}
        for name, size in here.items():
            total[name] += size
    return total
