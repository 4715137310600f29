"""Stage cache, methods that compress: right after a layer's prefill its entries are packed."""

from __future__ import annotations

from typing import Any

from ..errors import UnsupportedCallError
from ..stores.compact import PackMethod
from ..stores.compact_layer import CompactLayer
from ..stores.held import HeldLayer
from ..tokens import Entries


def compact(cache: Any, layer_index: int, method: PackMethod, entries: Entries) -> CompactLayer:
    """Put what ``method`` makes of a layer's entries in the layer's place.

    Args:
        cache: a transformers cache with layers of ours.
        layer_index: which of its layers.
        method: packs.
        entries: all that the layer holds, of which the method may look at more than keys and values.

    Returns:
        The new layer, which is already in the cache.

    Raises:
        UnsupportedCallError: the layer has a sliding window, or its heads hold different numbers of entries.
    """
    held = cache.layers[layer_index]
    if type(held) not in (HeldLayer, CompactLayer):
        raise UnsupportedCallError(
            f"{method.name} packs layers whose heads all hold the same number of entries, "
            f"and layer {layer_index} is a {type(held).__name__}; give each head the same budget"
        )
    if held.window is not None:
        raise UnsupportedCallError(f"layer {layer_index} keeps a sliding window, which {method.name} cannot pack")
    layer = CompactLayer.of(held, method.pack(entries))
    cache.layers[layer_index] = layer
    return layer
