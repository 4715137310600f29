"""Entries of many attention heads in one buffer: a stretch for each head, of its own length, and attention over them.

Stretches lie in the order of their lengths. At first they touch; once tokens are appended each gets room for some more,
and the buffer is laid out anew when that is used up. Attention runs over each stretch where it lies, so nothing is
padded and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

#: Room for so many tokens more, or for one in so many of those held, when a layer is laid out anew.
BLOCK, SHARE = 32, 32
#: From so many new tokens on, query heads read one mask of (q, n) instead of a copy each.
MANY = 32
#: How many dimensions an entry has: its key, its value, its position and, where one is kept, its tally.
WIDE = (1, 1, 0, 1)
#: Gives keys, values and positions of one stretch by its number.
Fill = Callable[[int], Sequence[Tensor]]


class Group(NamedTuple):
    """Stretches of equal length next to each other: ``heads`` of them from ``start``, ``stride`` entries apart."""

    heads: int
    start: int
    stride: int
    length: int


class Pack:
    """Stretches of entries in one buffer.

    Attributes:
        tensors: keys (N, d), values (N, d'), positions (N,) int32 and, where one is kept, the tally (N, H / g) of all
            entries, with the room between them.
        lengths: entries in each of the B * g stretches, and ``start`` where each begins.
        free: room behind every stretch, in entries.
        tree: (q, q) bool, which of the last q tokens each of them sees; None where that is all up to itself.
    """

    tree: Tensor | None = None

    def __init__(self, like: Sequence[Tensor], lengths: list[int], fill: Fill, free: int = 0) -> None:
        """like: what entries look like, (..., d) keys, values and, without a width, the rest; fill(r): stretch r."""
        self._arrange(lengths, free)
        self.tensors = [t.new_empty(self.size, *t.shape[t.ndim - wide :]) for t, wide in zip(like, WIDE)]
        for r, (at, n) in enumerate(zip(self.start, lengths)):
            for buffer, source in zip(self.tensors, fill(r)):
                buffer[at : at + n] = source.detach()
        self._index()

    def _arrange(self, lengths: list[int], free: int) -> None:
        """Decide where stretches begin."""
        self.lengths, self.free = lengths, free
        self.order = sorted(range(len(lengths)), key=lambda r: lengths[r])
        self.start, at = [0] * len(lengths), 0
        for r in self.order:
            self.start[r] = at
            at += lengths[r] + free
        self.room = [n + free for n in lengths]
        self.size = at

    def _index(self) -> None:
        """What follows from the lengths: where the next entry goes, and which stretches can be read together."""
        self.ends = torch.tensor([s + n for s, n in zip(self.start, self.lengths)], device=self.device)
        self.groups: list[Group] = []
        for r in self.order:
            n, at = self.lengths[r], self.start[r]
            last = self.groups[-1] if self.groups else None
            alike = last is not None and (last.length, last.stride) == (n, self.room[r])
            if last is not None and alike and last.start + last.heads * last.stride == at:
                self.groups[-1] = last._replace(heads=last.heads + 1)
            else:
                self.groups.append(Group(1, at, self.room[r], n))
        sorted_ = self.order == list(range(len(self.order)))
        self.sort = None if sorted_ else torch.tensor(self.order, device=self.device)
        self.unsort = None if self.sort is None else self.sort.argsort()

    @property
    def device(self) -> torch.device:
        """Where the entries lie."""
        return self.tensors[0].device

    @property
    def longest(self) -> int:
        """Entries of the longest stretch."""
        return max(self.lengths, default=0)

    def stretch(self, r: int) -> list[Tensor]:
        """Keys, values and positions of one stretch, as views."""
        return [t[self.start[r] : self.start[r] + self.lengths[r]] for t in self.tensors]

    def lay(self, rows: Sequence[int]) -> Pack:
        """These stretches in a buffer of their own."""
        return Pack(self.tensors, [self.lengths[r] for r in rows], lambda i: self.stretch(rows[i]), self.free)

    def saved(self) -> dict[str, Any]:
        """What it takes to make it again, without the room between stretches."""
        rows = [self.stretch(r) for r in range(len(self.lengths))]
        return {"lengths": self.lengths, "tensors": [torch.cat(parts) for parts in zip(*rows)]}

    @classmethod
    def revive(cls, saved: dict[str, Any]) -> Pack:
        """The reverse of :meth:`saved`."""
        rows = list(zip(*(t.split(saved["lengths"]) for t in saved["tensors"])))
        return cls(saved["tensors"], saved["lengths"], lambda r: rows[r])

    def grow(self, more: int) -> None:
        """Make room for ``more`` entries in every stretch; keys are moved and freed before values are."""
        writable = torch.is_inference_mode_enabled() or not self.tensors[0].is_inference()
        if writable and more <= self.free:
            return
        old, lengths = self.start, self.lengths
        spare = max(BLOCK, sum(lengths) // (SHARE * max(1, len(lengths))))
        self._arrange(lengths, -(-more // spare) * spare)
        for i, t in enumerate(self.tensors):
            new = t.new_empty(self.size, *t.shape[1:])
            for a, b, n in zip(old, self.start, lengths):
                new[b : b + n] = t[a : a + n]
            self.tensors[i] = new
        self._index()

    def append(self, new: Sequence[Tensor]) -> None:
        """One or more entries for every stretch: (R, q, ...) of each tensor."""
        q = new[0].shape[1]
        self.grow(q)
        at = self.ends[:, None] + torch.arange(q, device=self.device)
        for t, x in zip(self.tensors, new):
            t.index_copy_(0, at.reshape(-1), x.detach().reshape(-1, *t.shape[1:]).to(t.dtype))
        self._shift(q)

    def _shift(self, by: int) -> None:
        """All stretches are longer (or shorter) by that many."""
        self.lengths = [n + by for n in self.lengths]
        self.free -= by
        self.ends = self.ends + by
        self.groups = [g._replace(length=g.length + by) for g in self.groups]

    def append_some(self, new: Sequence[Tensor], real: Tensor) -> Pack:
        """The same where real (R, q) bool, in a new buffer; stretches grow by different numbers."""
        counts = real.sum(1).tolist()

        def fill(r: int) -> list[Tensor]:
            return [torch.cat([old, x[r][real[r]].detach().to(old.dtype)]) for old, x in zip(self.stretch(r), new)]

        return Pack(self.tensors, [n + more for n, more in zip(self.lengths, counts)], fill)

    def forget(self, left: int, recent: int | None) -> None:
        """Drop entries at positions from ``left`` on; ``recent``: how many those are in every stretch, if known."""
        if recent is not None:
            self._shift(-recent)
            return
        gone = [int((self.stretch(r)[2] >= left).sum()) for r in range(len(self.lengths))]
        self.lengths = [n - k for n, k in zip(self.lengths, gone)]
        self.free += min(gone)
        self._index()

    def reorder_tail(self, order: Tensor) -> None:
        """Another order of the last q entries of every stretch: order (R, q), which of them comes where."""
        first = (self.ends - order.shape[1])[:, None]
        at = (first + torch.arange(order.shape[1], device=self.device)).reshape(-1)
        source = (first + order.to(self.device)).reshape(-1)
        for t in self.tensors:
            t[at] = t[source]

    def dense(self, real: Tensor | None = None) -> list[Tensor]:
        """Keys, values (R, n, d), positions (R, n) and the tally; short stretches are padded in front, positions by -1.

        real (R, q) bool: which of the last q tokens are entries; by default all, and padding gets a place where not.
        """
        q = 0 if real is None else real.shape[1]
        new = [0] * len(self.lengths) if real is None else real.sum(1).tolist()
        past = max((n - k for n, k in zip(self.lengths, new)), default=0)
        made = []
        for i, t in enumerate(self.tensors):
            out = t.new_full((len(self.lengths), past + q, *t.shape[1:]), -1 if i == 2 else 0)
            for r, k in enumerate(new):
                n, stretch = self.lengths[r] - k, self.stretch(r)[i]
                out[r, past - n : past] = stretch[:n]
                if real is not None:
                    out[r, past:][real[r]] = stretch[n:]
            made.append(out)
        return made

    def attend(self, queries: Tensor, scaling: float, real: Tensor | None = None) -> Tensor:
        """Exact attention of the last q tokens, each over what its own head holds up to itself.

        queries (R, H / g, q, d), real (R, q) bool: False at padding -> (R, H / g, q, d').
        """
        _, h, q, d = queries.shape
        queries = queries if self.sort is None else queries.index_select(0, self.sort)
        real = real if real is None or self.sort is None else real.index_select(0, self.sort)
        flat = q < MANY  # the query heads of a KV head side by side, as if they were more queries
        queries = queries.reshape(-1, 1, h * q, d) if flat else queries
        out, row = [], 0
        for heads, start, stride, n in self.groups:
            if n == 0:  # all padding so far
                out.append(queries.new_zeros(*queries[row : row + heads].shape[:-1], self.tensors[1].shape[1]))
                row += heads
                continue
            k, v = (
                t.as_strided((heads, 1, n, t.shape[1]), (stride * t.shape[1], 0, t.shape[1], 1), start * t.shape[1])
                for t in self.tensors[:2]
            )
            mask = None
            if q > 1:
                mask = _behind(q, n, k.device) if real is None else _behind_real(real[row : row + heads], n)
                if self.tree is not None and len(self.tree) == q:
                    mask = torch.cat([mask[..., : n - q], self.tree.expand(*mask.shape[:2], q, q)], -1)
                mask = mask.repeat(1, 1, h, 1) if flat else mask
            if not flat:
                k, v = k.expand(-1, h, -1, -1), v.expand(-1, h, -1, -1)
            out.append(scaled_dot_product_attention(queries[row : row + heads], k, v, attn_mask=mask, scale=scaling))
            row += heads
        made = out[0] if len(out) == 1 else torch.cat(out)
        made = made if self.unsort is None else made.index_select(0, self.unsort)
        return made.view(-1, h, q, made.shape[-1])


def _behind(q: int, n: int, device: torch.device) -> Tensor:
    """(1, 1, q, n) bool: what the last q of n tokens see."""
    return torch.ones(q, n, dtype=torch.bool, device=device).tril(n - q)[None, None]


def _behind_real(real: Tensor, n: int) -> Tensor:
    """The same where only real (R, q) tokens became entries; padding sees everything, nobody reads what it makes."""
    number = real.cumsum(1)  # (R, q): new entries up to each token
    last = (n - number[:, -1:] + number).masked_fill(~real, n)
    return (torch.arange(n, device=real.device) < last[..., None])[:, None]


class Reading(NamedTuple):
    """What :meth:`RaggedLayer.update` hands to the attention in place of keys and values."""

    pack: Pack
    real: Tensor | None

    def attend(self, q: Tensor, scaling: float) -> Tensor:
        """q (B, H, m, d) of the tokens appended last -> (B, m, H, d')."""
        b, h, m, d = q.shape
        rows = len(self.pack.lengths)
        out = self.pack.attend(q.reshape(rows, b * h // rows, m, d), scaling, self.real)
        return out.view(b, h, m, -1).transpose(1, 2).contiguous()

    def dense(self, b: int) -> tuple[Tensor, Tensor, Tensor]:
        """keys, values (B, g, n, d) and positions (B, g, n), -1 in front of short heads."""
        k, v, at = (t.view(b, -1, *t.shape[1:]) for t in self.pack.dense(self.real)[:3])
        return k, v, at
