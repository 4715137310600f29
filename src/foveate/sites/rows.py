"""Caches of one row each: copied, joined to one that is filled up on the left, and taken apart again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer

from ..stores.held import HeldLayer


def snapshot(cache: Any, seen: int | None = None) -> Any:
    """A cache with the same contents that may grow without changing this one; cut to the first ``seen`` tokens.

    Raises:
        UnsupportedCallError: what was cut off has pushed earlier tokens out of a sliding window.
    """
    out = cache_of([copy.copy(x) for x in cache.layers])
    if seen is not None and (gone := int(cache.get_seq_length()) - seen) > 0:
        out.crop(-gone)
    return out


def nbytes(cache: Any) -> int:
    """Bytes of the keys and values of a cache."""
    tensors = [t for x in cache.layers for t in (getattr(x, "keys", None), getattr(x, "values", None))]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def compacted(cache: Any) -> Any:
    """The same cache on memory of its own, where its layers are views of a larger one."""
    return cache_of([compact(x) for x in cache.layers])


def plain(layer: Any) -> bool:
    """Whether a layer does nothing of its own while tokens are written."""
    if type(layer) is DynamicLayer:
        return True
    # a layer with latest queries is one whose methods are asked again while tokens are written, row by row
    return type(layer) is HeldLayer and layer.tally is None and layer.recent is None and not layer.record_past


def cache_of(layers: list[Any]) -> Any:
    """A cache of these layers."""
    out = DynamicCache()
    out.layer_class_to_replicate = None
    out.layers = layers
    return out


def compact(layer: Any) -> Any:
    """On storages of its own, so that what it was a part of can be freed."""
    out = copy.copy(layer)
    for name in ("keys", "values"):
        t = getattr(out, name, None)
        if isinstance(t, Tensor) and t.untyped_storage().nbytes() > t.numel() * t.element_size():
            setattr(out, name, t.clone(memory_format=torch.contiguous_format))
    return out


def row(layer: Any, i: int, seen: int, n: int) -> Any:
    """Row i of a joined layer, without what it was filled up with. seen: of n tokens, the row's own."""
    keys, values = layer.keys[i : i + 1], layer.values[i : i + 1]
    if type(layer) is DynamicLayer:
        new: Any = DynamicLayer()
        new.lazy_initialization(keys, values)
        new.keys, new.values = keys[..., n - seen :, :], values[..., n - seen :, :]
        return new
    where = layer.where[i : i + 1]
    held = int((where >= 0).any(1).sum())
    cut = where.shape[-1] - held
    new = HeldLayer(layer.window)
    new.lazy_initialization(keys, values)
    new.keys, new.values = keys[..., cut:, :], values[..., cut:, :]
    new.where = where[..., cut:] - (n - seen)
    new.seen, new.asked = seen, seen
    new.gaps = layer.gaps
    return new


def joined(rows: Sequence[Any]) -> Any:
    """Layers of one row each -> one layer, filled up on the left."""
    most = max(x.keys.shape[-2] for x in rows)
    keys, values = (
        torch.cat([pad(getattr(x, name), (0, 0, most - x.keys.shape[-2], 0)) for x in rows])
        for name in ("keys", "values")
    )
    first = rows[0]
    if type(first) is DynamicLayer:
        new: Any = DynamicLayer()
        new.lazy_initialization(keys, values)
        new.keys, new.values = keys, values
        return new
    n, heads = max(x.seen for x in rows), max(x.where.shape[1] for x in rows)
    # a position counts from the start of the filled-up row, as in a prompt padded on the left
    moved = [pad(x.where.expand(-1, heads, -1) + (n - x.seen), (most - x.held, 0), value=-1) for x in rows]
    new = HeldLayer(first.window)
    new.lazy_initialization(keys, values)
    new.keys, new.values, new.where = keys, values, torch.cat(moved)
    new.seen = new.asked = n
    new.padded = any(x.held != most or x.seen != n for x in rows)
    new.gaps = any(x.gaps or x.held != most or x.seen != n for x in rows)
    return new
