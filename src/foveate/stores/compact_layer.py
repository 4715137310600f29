"""A cache layer whose entries are compressed; attention gets them as they are read back."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import UnsupportedCallError
from ..reduction import Reduction
from .compact import Attending, Coded, Compact
from .held import HeldLayer

#: What stands beside the entries, and changes with them.
_BESIDE = ("where", "padded", "gaps", "tally")


class CompactLayer(HeldLayer):
    """A :class:`HeldLayer` that holds a :class:`Compact` in place of tensors.

    ``keys`` and ``values`` read it anew at every look. Without a compact, as after :meth:`reset`, it is a plain layer.

    Attributes:
        compact: the entries, or None, and ``heads`` how many KV heads they have.
    """

    heads: int

    def __init__(self, window: int | None = None) -> None:
        self._compact: Compact | None = None
        self._late: tuple[Tensor, Tensor] | None = None  # the latest entry, until somebody asks for the others
        self._plain: list[Any] = [None, None]
        super().__init__(window)

    @classmethod
    def of(cls, held: HeldLayer, compact: Compact) -> CompactLayer:
        """The same place in the sequence as a layer, holding ``compact`` instead of its entries."""
        assert compact.n == held.held, f"{compact.n} entries were packed of {held.held}"
        new = cls(held.window)
        new.lazy_initialization(held.keys, held.values)
        new.keys = new.values = None
        new.compact, new.heads = compact, held.keys.shape[1]
        for name in ("record_past", "seen", "incoming", "advance", "asked", "recent", *_BESIDE):
            setattr(new, name, getattr(held, name))
        return new

    @property
    def compact(self) -> Compact | None:
        """What is held, the latest entry included."""
        if self._late is not None and self._compact is not None:
            late, self._late = self._late, None
            self._compact.append(*late)
        return self._compact

    @compact.setter
    def compact(self, value: Compact | None) -> None:
        self._compact, self._late = value, None

    @property
    def keys(self) -> Any:
        """(B, g, held, d), or None."""
        return self._plain[0] if self.compact is None else self.compact.read()[0]

    @keys.setter
    def keys(self, x: Any) -> None:
        self._plain[0] = x

    @property
    def values(self) -> Any:
        """(B, g, held, d), or None."""
        return self._plain[1] if self.compact is None else self.compact.read()[1]

    @values.setter
    def values(self, x: Any) -> None:
        self._plain[1] = x

    @property
    def entries(self) -> int:
        """Entries held by all heads of all rows together, padding included."""
        if self.compact is None or self.where is None:
            return super().entries
        return self.held * self.where.shape[0] * self.heads

    @property
    def disk_bytes(self) -> int:
        """Bytes in files."""
        return int(getattr(self.compact, "disk_bytes", 0))

    def dense(self) -> tuple[Tensor, Tensor, Tensor]:
        """keys, values (B, g, held, d) and positions (B, 1 or g, held)."""
        if self.compact is None or self.where is None:
            return super().dense()
        return *self.compact.read(), self.where

    @property
    def nbytes(self) -> int:
        """Bytes of the storages behind the entries."""
        return super().nbytes if self.compact is None else self.compact.nbytes

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, g, q, d) keys and values; returns everything the new queries may read, the new ones exact.

        A single token, on a CPU and while a plan is on the model, gets a :class:`Coded` in place of tensors: reading
        packed entries back takes longer than attending over them as they are.
        """
        if self.compact is None:
            return super().update(key_states, value_states, *args, **kwargs)
        if self._alone(key_states):
            coded: Any = Coded(cast(Attending, self.compact), key_states, value_states)
            self._note(key_states)
            self._late = key_states, value_states
            return coded, coded
        keys, values = self.compact.read()
        self._note(key_states)
        self.compact.append(key_states, value_states)
        return torch.cat([keys, key_states], -2), torch.cat([values, value_states], -2)

    def _alone(self, new: Tensor) -> bool:
        """Whether one token was announced, which is done only where our attention runs."""
        compact = self.compact
        if not hasattr(compact, "attend") or self.incoming is None or new.shape[-2] > 1 or new.requires_grad:
            return False
        return new.device.type == "cpu" or getattr(compact, "anywhere", False)

    def _note(self, new: Tensor) -> None:
        """Write down where (B, g, q, d) new entries stand."""
        b, q = new.shape[0], new.shape[-2]
        where = self.incoming
        if where is None or where.shape[-1] != q:
            where = torch.arange(self.seen, self.seen + q, device=new.device).expand(b, q)
            self.advance = q
        assert self.where is not None
        where = where[:, None].to(torch.int32).expand(-1, self.where.shape[1], -1)
        self.where = torch.cat([self.where, where], -1)
        self.tally = None if self.tally is None else pad(self.tally, (0, q))
        advance = q if self.advance is None else self.advance
        self.seen, self.gaps = self.seen + advance, self.gaps or advance != q
        self.incoming = self.advance = None

    def shrink(self, reduction: Reduction) -> None:
        """Keep what a map of (B * g, held) rows keeps; what stays is coded anew."""
        plain = self._read()
        plain.shrink(reduction)
        self._refill(plain)

    def cut(self, keep: Tensor) -> None:
        """Free entries of all heads alike, keep (B, held) bool; what stays is coded anew."""
        plain = self._read()
        plain.cut(keep)
        self._refill(plain)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens seen."""
        if self.compact is None:
            return super().crop(tokens_to_remove)
        if tokens_to_remove > 0:
            raise UnsupportedCallError(f"crop takes a negative number of tokens to remove. Got {tokens_to_remove}.")
        if tokens_to_remove == 0 or self.where is None:
            return None
        left = max(0, self.seen + tokens_to_remove)
        gone = (self.where >= left).sum(-1)
        count = int(gone.max())
        if bool((gone != count).any()):
            raise UnsupportedCallError(
                f"cannot forget {-tokens_to_remove} tokens: they reach into entries that were evicted head by head"
            )
        keep = self.held - count
        self.compact.crop(keep)
        self.where, self.seen = self.where[..., :keep], left
        self.tally = None if self.tally is None else self.tally[..., :keep]
        return None

    def reset(self) -> None:
        """Empty the layer."""
        self.compact = None
        super().reset()

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times."""
        if self.where is not None:
            self.batch_select_indices(torch.arange(self.where.shape[0]).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        if self.compact is None:
            super().batch_select_indices(indices)
        elif self.where is not None:
            indices = torch.as_tensor(indices)
            rows = indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices
            rows = rows.to(self.where.device)
            self.compact.select(rows)
            self.where = self.where[rows]
            self._beside(rows)

    def _read(self) -> HeldLayer:
        """A plain layer with what is held."""
        assert self.where is not None, "nothing is held"
        plain = HeldLayer(self.window)
        keys, values, _ = self.dense()
        plain.lazy_initialization(keys, values)
        plain.keys, plain.values, plain.seen = keys, values, self.seen
        for name in _BESIDE:
            setattr(plain, name, getattr(self, name))
        return plain

    def _refill(self, plain: HeldLayer) -> None:
        """Hold what a plain layer holds."""
        for name in _BESIDE:
            setattr(self, name, getattr(plain, name))
        if self.compact is None:
            self.keys, self.values = plain.keys, plain.values
        else:
            self.compact.crop(0)
            self.compact.append(plain.keys, plain.values)
