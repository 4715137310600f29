"""A key-value cache whose entries can be replaced in place: what bidirectional models reuse between denoising steps.

A causal model only ever appends. A masked model reads its whole text at once, and what it remembers of a position goes
stale when tokens elsewhere change; the positions that are read again take the place of their old entries.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class OverwriteLayer(DynamicLayer):  # type: ignore[misc]
    """Entries of one layer, (B, g, n, d). The first update stores them; later ones replace those at ``owner.at``."""

    is_croppable = False

    def __init__(self, owner: OverwriteCache) -> None:
        super().__init__()
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """key_states, value_states (B, g, k, d) -> all keys and values (B, g, n, d)."""
        if self.owner.at is None:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
        else:
            at = self.owner.at[:, None, :, None]  # (B, 1, k, 1)
            self.keys = self.keys.scatter(2, at.expand_as(key_states), key_states)
            self.values = self.values.scatter(2, at.expand_as(value_states), value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """0, so that a model which asks where it is begins at the start; positions are always given to it."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (self.keys.shape[2] if self.is_initialized else query_length), 0

    def get_max_length(self) -> int:
        return -1


class OverwriteCache(Cache):  # type: ignore[misc]
    """One :class:`OverwriteLayer` for each layer.

    Attributes:
        at: (B, k) int64, the positions that the tokens of the next call have; None: they are the whole sequence.
    """

    at: Tensor | None

    def __init__(self, layers: int) -> None:
        self.at = None
        super().__init__(layers=[OverwriteLayer(self) for _ in range(layers)])
