"""A cache layer in which every KV head of every row holds its own number of entries, and only those take memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedCallError
from ..reduction import Reduction
from .held import HeldLayer
from .stretches import Pack, Reading


class RaggedLayer(HeldLayer):
    """Drop-in for ``DynamicLayer``: heads hold different numbers of entries. An empty one is a :class:`HeldLayer`.

    Attributes:
        keys, values: the buffers, (N, d).
        where: (B, g, longest) int32, positions as seen, -1 in front of heads that hold fewer.
        fresh: so many tokens came last to all heads alike.
    """

    pack: Pack | None

    def __init__(self) -> None:
        self.b = 0
        super().__init__()

    @classmethod
    def of(cls, layer: HeldLayer, reduction: Reduction) -> RaggedLayer:
        """What a map of (B * g, held) rows keeps of a layer; padding goes."""
        new = cls()
        new.dtype, new.device, new.is_initialized = layer.keys.dtype, layer.keys.device, True
        new.seen, new.record_past, new.gaps = layer.seen, layer.record_past, True
        keys, values, where = layer.dense()
        b, g, n = keys.shape[:3]
        rows = [t.reshape(b * g, n, *t.shape[3:]) for t in (keys, values, where.expand(b, g, n))]
        if layer.tally is not None:
            rows.append(layer.tally.view(b * g, -1, n).transpose(1, 2))
        new._take(b, rows, reduction)
        return new

    def _take(self, b: int, rows: Sequence[Tensor], reduction: Reduction) -> None:
        """rows: keys, values (R, n, d), positions (R, n) int32 and perhaps a tally; the map keeps some."""
        keep = reduction.keep
        real = (keep >= 0) & (reduction.gather(rows[2]) >= 0)
        mixed = rows[:2] if reduction.selects else [reduction(t.detach()) for t in rows[:2]]

        def fill(r: int) -> list[Tensor]:
            at = keep[r][real[r]]
            slot = at if reduction.selects else real[r].nonzero()[:, 0]
            return [mixed[0][r][slot], mixed[1][r][slot], *(t[r][at] for t in rows[2:])]

        self._hold(Pack(rows, real.sum(1).tolist(), fill), b)

    def _hold(self, pack: Pack, b: int) -> None:
        self.pack, self.b, self.fresh = pack, b, 0
        self._show()

    def _show(self) -> None:
        if self.pack is not None:
            self.keys, self.values = self.pack.tensors[:2]

    def _forget(self) -> None:
        super()._forget()
        self.pack, self.fresh, self.partial = None, 0, False

    @property
    def ragged(self) -> bool:
        """Whether heads hold their own numbers of entries."""
        return self.pack is not None

    @property
    def where(self) -> Tensor | None:
        """(B, g, longest) int32, or as in :class:`HeldLayer`."""
        return self._where if self.pack is None else self.dense()[2]

    @where.setter
    def where(self, value: Tensor | None) -> None:
        self._where = value

    @property
    def held(self) -> int:
        """Entries held by the head that holds most."""
        return super().held if self.pack is None else self.pack.longest

    @property
    def nbytes(self) -> int:
        """Bytes of the storages behind keys and values."""
        if self.pack is None:
            return super().nbytes
        return sum(t.untyped_storage().nbytes() for t in self.pack.tensors[:2])

    @property
    def entries(self) -> int:
        """Entries held by all heads of all rows together."""
        return super().entries if self.pack is None else sum(self.pack.lengths)

    def dense(self) -> tuple[Tensor, Tensor, Tensor]:
        """keys, values (B, g, longest, d) and positions, copied."""
        return super().dense() if self.pack is None else Reading(self.pack, None).dense(self.b)

    def dense_tally(self) -> Tensor | None:
        """(B, H, longest) beside what :meth:`dense` returns."""
        if self.pack is None or len(self.pack.tensors) < 4:
            return super().dense_tally()
        return self.pack.dense()[3].transpose(1, 2).reshape(self.b, -1, self.pack.longest)

    def add(self, more: Tensor) -> None:
        """Add (B, H, longest) to the tally."""
        if self.pack is None or len(self.pack.tensors) < 4:
            return  # a tally starts with the prompt
        n = self.pack.longest
        rows = more.view(len(self.pack.lengths), -1, n).transpose(1, 2)
        for r, length in enumerate(self.pack.lengths):
            self.pack.stretch(r)[3].add_(rows[r, n - length :])

    def forget_tally(self) -> None:
        """Free the tally."""
        super().forget_tally()
        if self.pack is not None:
            self.pack.tensors = self.pack.tensors[:3]

    def expect(self, where: Tensor, advance: int, padded: bool) -> None:
        """Announce the next update; padding among the new tokens never becomes an entry."""
        if self.pack is None:
            super().expect(where, advance, padded)
        else:
            self.incoming, self.advance, self.partial = where, advance, padded

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Append (B, g, q, d) keys and values; returns what our attention reads instead of tensors."""
        if self.pack is None:
            return super().update(key_states, value_states, *args, **kwargs)
        b, g, q, _ = key_states.shape
        at, partial = self.incoming, self.partial
        if at is None or at.shape[-1] != q:
            at = torch.arange(self.seen, self.seen + q, device=key_states.device).expand(b, q)
            self.advance, partial = q, False
        at = at.to(torch.int32).repeat_interleave(g, 0)
        new, real = [key_states.flatten(0, 1), value_states.flatten(0, 1), at], at >= 0
        new += [t.new_zeros(b * g, q, t.shape[1]) for t in self.pack.tensors[3:]]
        advance = q if self.advance is None else self.advance
        self.keys = self.values = None  # the old buffers are freed as they are outgrown
        if partial and not bool(real.all()):
            self.pack, self.fresh = self.pack.append_some(new, real), 0
        else:
            self.pack.append(new)
            self.fresh, partial = (self.fresh + q if advance == q else 0), False
        self.seen, self.incoming, self.advance = self.seen + advance, None, None
        self._show()
        reading = Reading(self.pack, real if partial else None)
        return reading, reading

    def shrink(self, reduction: Reduction) -> None:
        """Keep what a map of (B * g, held) rows of the padded view (:meth:`dense`) keeps; the rest is freed."""
        if self.pack is None:
            super().shrink(reduction)
        else:
            self._take(self.b, self.pack.dense(), reduction)

    def cut(self, keep: Tensor) -> None:
        """Free entries of all heads alike. keep (B, held) bool, by column."""
        if self.pack is None:
            super().cut(keep)
        else:
            self.shrink(Reduction.from_mask(keep.repeat_interleave(len(self.pack.lengths) // self.b, 0)))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens seen."""
        if self.pack is None:
            super().crop(tokens_to_remove)
            return
        if tokens_to_remove > 0:
            raise UnsupportedCallError(f"crop takes a negative number of tokens to remove. Got {tokens_to_remove}.")
        if tokens_to_remove == 0:
            return
        left = max(0, self.seen + tokens_to_remove)
        known = -tokens_to_remove <= self.fresh
        self.pack.forget(left, -tokens_to_remove if known else None)
        self.fresh = self.fresh + tokens_to_remove if known else 0
        self.seen = left

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beam search: rows follow their beams."""
        if self.pack is None or beam_idx.tolist() != list(range(self.b)):
            self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times."""
        if self.pack is None:
            super().batch_repeat_interleave(repeats)
        else:
            self._rows([r for r in range(self.b) for _ in range(repeats)])

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        if self.pack is None:
            super().batch_select_indices(indices)
        else:
            self._rows(torch.arange(self.b)[indices.cpu()].tolist())  # numbers or a mask

    def _rows(self, rows: list[int]) -> None:
        assert self.pack is not None
        g, fresh = len(self.pack.lengths) // self.b, self.fresh
        self._hold(self.pack.lay([r * g + h for r in rows for h in range(g)]), len(rows))
        self.fresh = fresh
        self._beside(torch.tensor(rows))
