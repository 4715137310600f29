"""A cache layer that holds fewer entries than it has seen, and knows the prompt position of each one it holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicLayer

from ..errors import UnsupportedCallError
from ..reduction import Reduction


class HeldLayer(DynamicLayer):  # type: ignore[misc]
    """Drop-in for ``DynamicLayer``: ``get_seq_length`` is what was seen, the tensors are what is held.

    Attributes:
        keys, values: (B, g, held, d).
        where: (B, 1 or g, held) int32, the position of each entry in the sequence as seen; -1 at padding.
        seen: how many tokens the layer has been shown, dropped ones included.
        window: sliding-window width, or None for full attention.
        padded: whether any entry may be padding.
        gaps: whether tokens are missing between entries.
        asked: tokens seen when methods were last asked what to keep, and ``recent`` the latest queries, by rows.
        tally: (B, H, held) float, a sum over queries for each entry, or None; it follows the entries.
        record_past: keep what leaves the window until the next :meth:`crop`, so that drafted tokens can be undone.
    """

    keys: Any
    values: Any

    def __init__(self, window: int | None = None) -> None:
        super().__init__()
        self.window = window
        self.is_sliding = window is not None
        self.record_past = False
        self._forget()

    def _forget(self) -> None:
        self.seen = 0
        self.where: Tensor | None = None
        self.padded = self.gaps = False
        self.incoming: Tensor | None = None
        self.advance: int | None = None
        self.asked = 0
        self.recent: Any = None
        self.tally: Tensor | None = None

    @classmethod
    def adopt(cls, layer: Any) -> HeldLayer:
        """The same contents as a transformers dynamic layer, empty or not."""
        new = cls(window=getattr(layer, "sliding_window", None))
        new.record_past = getattr(layer, "record_past", False)
        if layer.is_initialized and layer.keys is not None and layer.keys.numel():
            new.lazy_initialization(layer.keys, layer.values)
            new.keys, new.values, new.seen = layer.keys, layer.values, layer.get_seq_length()
            held = new.keys.shape[-2]
            at = torch.arange(new.seen - held, new.seen, device=new.keys.device, dtype=torch.int32)
            new.where = at.expand(new.keys.shape[0], 1, held)
        return new

    @property
    def held(self) -> int:
        """Entries held by each head."""
        return 0 if self.where is None else self.where.shape[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of the storages behind keys and values."""
        if self.where is None or self.keys is None or self.values is None:
            return 0
        return int(sum(t.untyped_storage().nbytes() for t in (self.keys, self.values)))

    @property
    def disk_bytes(self) -> int:
        """Bytes in files, of stores that keep some of their entries there."""
        return 0

    @property
    def ragged(self) -> bool:
        """Whether heads hold their own numbers of entries (see stores/ragged.py)."""
        return False

    @property
    def entries(self) -> int:
        """Entries held by all heads of all rows together, padding included."""
        return 0 if self.where is None else self.held * self.keys.shape[0] * self.keys.shape[1]

    def dense(self) -> tuple[Tensor, Tensor, Tensor]:
        """keys, values (B, g, held, d) and positions (B, 1 or g, held)."""
        assert self.where is not None, "the layer is empty"
        return self.keys, self.values, self.where

    def dense_tally(self) -> Tensor | None:
        """``tally`` beside what :meth:`dense` returns."""
        return self.tally

    def add(self, more: Tensor) -> None:
        """Add (B, H, held) to the tally."""
        self.tally = more if self.tally is None else self.tally + more

    def forget_tally(self) -> None:
        """Free the tally."""
        self.tally = None

    def expect(self, where: Tensor, advance: int, padded: bool) -> None:
        """Announce the next update: where (B, q) int, positions of its tokens (-1 padding), of ``advance`` seen."""
        self.incoming, self.advance, self.padded = where, advance, self.padded or padded

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, g, q, d) keys and values; returns everything the new queries may read."""
        b, q = key_states.shape[0], key_states.shape[-2]
        new = self.incoming
        if new is None or new.shape[-1] != q:
            new = torch.arange(self.seen, self.seen + q, device=key_states.device).expand(b, q)
            self.advance = q
        new = new[:, None].to(torch.int32)
        if self.where is None:
            self.lazy_initialization(key_states, value_states)
            self.where = new
            keys, values = key_states, value_states
        else:
            keys = torch.cat([self.keys, key_states], dim=-2)
            values = torch.cat([self.values, value_states], dim=-2)
            self.where = torch.cat([self.where, new.expand(-1, self.where.shape[1], -1)], dim=-1)
            if self.tally is not None:
                self.tally = pad(self.tally, (0, q))
        advance = q if self.advance is None else self.advance
        self.seen, self.gaps = self.seen + advance, self.gaps or advance != q
        self.incoming = self.advance = None
        self.keys, self.values = keys, values
        if not self.record_past:
            self._slide()
        return keys, values

    def _slide(self) -> None:
        """Free what has left the window for good."""
        if self.keys is None or self.values is None or self.where is None:
            return
        if self.window is None or self.held < self.window:
            return
        last = self.window - 1  # held entries are a subset of those seen, so the last ones cover the window
        self.keys, self.values = self.keys[..., -last:, :].clone(), self.values[..., -last:, :].clone()
        self.where = self.where[..., -last:]

    def activate_past_recording(self) -> None:
        """Called by generate before it drafts."""
        self.record_past = True

    def shrink(self, reduction: Reduction) -> None:
        """Keep what a map of (B * g, held) rows keeps; the rest is freed."""
        assert self.where is not None, "nothing to shrink"
        b, g, n, d = self.keys.shape
        self.keys = reduction(self.keys.reshape(b * g, n, d)).view(b, g, reduction.m, d)
        self.values = reduction(self.values.reshape(b * g, n, -1)).view(b, g, reduction.m, -1)
        if self.tally is not None:
            tally = self.tally.view(b * g, -1, n).transpose(1, 2)
            self.tally = reduction.gather(tally).transpose(1, 2).reshape(b, -1, reduction.m)
        where = self.where.expand(b, g, n).reshape(b * g, n)
        self.where, self.gaps = reduction.gather(where).view(b, g, reduction.m), True

    def cut(self, keep: Tensor) -> None:
        """Free entries of all heads alike. keep (B, held) bool; rows that keep fewer get padding on the left."""
        assert self.where is not None, "nothing to cut"
        counts = keep.sum(1)
        m = int(counts.max())
        order = keep.to(torch.uint8).argsort(dim=1, stable=True)[:, keep.shape[1] - m :]  # (B, m)
        g, d = self.keys.shape[1], self.keys.shape[3]
        wide = order[:, None, :, None].expand(-1, g, -1, d)
        self.keys, self.values = self.keys.gather(2, wide), self.values.gather(2, wide.expand_as(self.values[:, :, :m]))
        if self.tally is not None:
            self.tally = self.tally.gather(2, order[:, None].expand(-1, self.tally.shape[1], -1))
        real = keep.gather(1, order)[:, None]
        heads = self.where.shape[1]
        self.where = self.where.gather(2, order[:, None].expand(-1, heads, -1)).masked_fill(~real, -1)
        self.gaps, self.padded = True, self.padded or bool((counts != m).any())

    def get_seq_length(self) -> int:
        """Tokens seen, dropped ones included: where the next token stands."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(entries a mask must cover, offset of the first one), as if the held entries were the latest ones."""
        return self.held + query_length, self.seen - self.held

    def reset(self) -> None:
        """Empty the layer."""
        self._forget()
        self.keys = self.values = None
        self.is_initialized = False

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens seen."""
        if tokens_to_remove > 0:
            raise UnsupportedCallError(f"crop takes a negative number of tokens to remove. Got {tokens_to_remove}.")
        if self.where is None or self.keys is None or self.values is None:
            return
        if tokens_to_remove == 0:
            self._slide()
            return
        left = max(0, self.seen + tokens_to_remove)
        gone = (self.where >= left).sum(-1)
        count = int(gone.max())
        if bool((gone != count).any()):
            raise UnsupportedCallError(
                f"cannot forget {-tokens_to_remove} tokens: they reach into entries that were evicted head by head"
            )
        if self.window is not None and self.seen >= self.window and left > 0 and not self.record_past:
            raise UnsupportedCallError("a full sliding window cannot be rolled back: what left it is gone")
        keep = self.held - count
        self.keys, self.values = self.keys[..., :keep, :], self.values[..., :keep, :]
        self.where, self.seen = self.where[..., :keep], left
        self.tally = None if self.tally is None else self.tally[..., :keep]
        self._slide()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beam search: rows follow their beams."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times."""
        if self.where is not None:
            super().batch_repeat_interleave(repeats)
            self.where = self.where.repeat_interleave(repeats, dim=0)
            self._beside(torch.arange(len(self.where) // repeats, device=self.where.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        if self.where is not None:
            super().batch_select_indices(indices)
            self.where = self.where[indices]
            self._beside(indices)

    def _beside(self, rows: Tensor) -> None:
        """What else belongs to these rows."""
        self.tally = None if self.tally is None else self.tally[rows]
        self.recent = None if self.recent is None else type(self.recent)(*(t[rows] for t in self.recent))
