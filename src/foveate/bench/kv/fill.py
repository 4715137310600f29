"""A cache as a prefill would leave it, without the prefill: random entries, put into a plan's stores by its methods.

How fast a store is read does not depend on what the numbers are, and a prefill of 32k tokens takes minutes on a CPU.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ...sites.compacting import compact
from ...spec import Plan
from ...stores.held import HeldLayer
from ...stores.ragged import RaggedLayer
from ...tokens import Entries

#: Queries handed to methods: the most that any asks for by default is fewer.
ASKING = 512


@dataclass(frozen=True)
class Shape:
    """What the cache of a text model looks like."""

    layers: int
    heads: int
    kv_heads: int
    width: int
    dtype: torch.dtype

    @classmethod
    def of(cls, model: Any) -> Shape:
        """Of a model as transformers loads it."""
        config = model.get_decoder().config
        heads = int(config.num_attention_heads)
        width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        return cls(int(config.num_hidden_layers), heads, int(config.num_key_value_heads), width, model.dtype)

    def nbytes(self, n: int) -> int:
        """Bytes of n tokens, in all layers, as they are."""
        return 2 * self.layers * self.kv_heads * self.width * n * self.dtype.itemsize


def drawn(shape: Shape, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random keys and values (1, g, n, d) and queries (1, H, min(n, ASKING), d) of one layer."""
    g = torch.Generator().manual_seed(seed)
    sizes = ((shape.kv_heads, n), (shape.kv_heads, n), (shape.heads, min(n, ASKING)))
    keys, values, queries = (torch.randn(1, *size, shape.width, generator=g).to(shape.dtype) for size in sizes)
    return keys, values, queries


@torch.inference_mode()
def plain(model: Any, n: int) -> DynamicCache:
    """transformers' own cache with n random entries in each head."""
    shape = Shape.of(model)
    cache = DynamicCache(config=model.get_decoder().config)
    keys, values, _ = drawn(shape, n)
    for i in range(shape.layers):
        cache.update(keys.clone(), values.clone(), i)
    return cache


@torch.inference_mode()
def stored(of: Any, plan: str, n: int, layer: int = 0, copies: int | None = None) -> DynamicCache:
    """The same entries as a plan's cache methods keep them; one layer is decided on, the others are copies of it.

    of: a model, or its :class:`Shape`. layer: which is decided on. copies: layers in all, None for those of the model.
    """
    shape = of if isinstance(of, Shape) else Shape.of(of)
    cache = DynamicCache()
    keys, values, queries = drawn(shape, n)
    held = HeldLayer()
    held.update(keys, values)
    cache.layers[:] = [held]
    for m in Plan.of(plan):
        now = cache.layers[0]
        seen = _seen(m, now, queries, shape, layer)
        if hasattr(m, "pack"):
            compact(cache, 0, m, seen)
            continue
        reduction = m.reduce(seen)
        if now.ragged or bool(reduction.valid.all()):
            now.shrink(reduction)
        else:
            cache.layers[0] = RaggedLayer.of(now, reduction)
    many = shape.layers if copies is None else copies
    cache.layers += [copy.deepcopy(cache.layers[0]) for _ in range(many - 1)]
    return cache


def _seen(m: Any, held: HeldLayer, queries: Tensor, shape: Shape, layer: int) -> Entries:
    """A layer as a method sees it, with whatever it asks for; all of it random."""
    keys, values, where = held.dense()
    b, n = keys.shape[0], keys.shape[2]
    g = torch.Generator().manual_seed(1)
    needs = {need for names in m.card.needs for need in names.split("|")}
    made: dict[str, Any] = {}
    if "received" in needs:
        made["received"] = torch.rand(b, shape.heads, n, generator=g)
    if "raw_queries" in needs:
        made["raw_queries"] = queries
    if "rotary" in needs:
        made["rotary"] = (1e6 ** -(torch.arange(0, shape.width, 2) / shape.width)).expand(b, -1)
        made["following"] = torch.full((b,), n)
    if "output" in needs:
        made["output"] = torch.randn(b, shape.heads, shape.width, shape.width, generator=g)
    if "recalled" in needs:
        made["recalled"] = torch.rand(b, shape.kv_heads, n, generator=g)
    return Entries(
        keys,
        values,
        queries[:, :, -getattr(m, "window", ASKING) :],
        shape.width**-0.5,
        visual=torch.ones(b, n, dtype=torch.bool),
        held=where >= 0 if held.ragged else None,
        layer=layer,
        layers=shape.layers,
        **made,
    )


def held_bytes(cache: Any) -> int:
    """Bytes that a cache's layers hold, of ours or transformers' own."""
    total = 0
    for layer in cache.layers:
        if isinstance(layer, HeldLayer):
            total += layer.nbytes
        else:
            total += sum(t.untyped_storage().nbytes() for t in (layer.keys, layer.values))
    return total
