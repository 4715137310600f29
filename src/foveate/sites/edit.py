"""Tokens of a cached prompt changed in place: the new ones are read, the keys behind them turned (foveate.edit)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from ..errors import InputError, UnsupportedCallError, UnsupportedModelError
from ..parts.rotary import turn
from ..stores.held import HeldLayer
from .entries import frequencies
from .model import Anatomy

#: Kinds of rotary embedding whose frequencies do not depend on how long the text is.
_STEADY = ("default", "linear", "llama3", "yarn", "mrope")


def edit(parts: Anatomy, cache: Any, start: int, stop: int, ids: Tensor | None, offset: int) -> None:
    """As :func:`foveate.edit.edit_cache`, given the parts of a model without a plan."""
    _check_rotary(parts)
    layers = cache.layers
    if not layers or not all(type(layer) in (DynamicLayer, HeldLayer) for layer in layers):
        kinds = ", ".join(sorted({type(layer).__name__ for layer in layers})) or "nothing"
        raise UnsupportedCallError(f"only plain dynamic cache layers with full attention can be edited. Got {kinds}.")
    length, b = int(layers[0].get_seq_length()), layers[0].keys.shape[0]
    if not 0 <= start <= stop <= length:
        raise InputError(f"an edit lies within the {length} tokens of the cache. Got {start}:{stop}.")
    m = 0 if ids is None else ids.shape[1]
    if ids is not None and (ids.ndim != 2 or ids.shape[0] != b or ids.is_floating_point()):
        raise InputError(f"new tokens are ids of shape ({b}, m). Got {ids.dtype} {tuple(ids.shape)}.")
    where = [_where(layer, length) for layer in layers]
    new = None if ids is None or not m else _read(parts, layers, where, ids, start, offset)
    shift = m - (stop - start)
    for i, layer in enumerate(layers):
        _splice(layer, where[i], new[i] if new is not None else None, (start, stop, m), frequencies(parts, i), shift)


def _check_rotary(parts: Anatomy) -> None:
    config = parts.decoder.config
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    tables = [given, *(v for v in given.values() if isinstance(v, dict))]
    kinds = {str(t[name]) for t in tables for name in ("rope_type", "type") if name in t}
    if frequencies(parts, 0) is None:
        raise UnsupportedModelError(f"{parts.name} has no rotary embedding that could be read")
    if wrong := kinds - {*_STEADY}:
        raise UnsupportedModelError(
            f"the rotary frequencies of {parts.name} follow the length of the text ({', '.join(sorted(wrong))}); "
            "read the whole prompt again"
        )


def _where(layer: Any, length: int) -> Tensor:
    """(B, n) position of each entry, -1 at padding."""
    if not isinstance(layer, HeldLayer):
        at = torch.arange(length, device=layer.keys.device)
        return at.expand(layer.keys.shape[0], -1)
    assert layer.where is not None
    where = layer.where
    if where.shape[1] > 1 and bool((where != where[:, :1]).any()):
        raise UnsupportedCallError("this cache was evicted head by head, so an edit would be another one in each head")
    return where[:, 0].long()


def _read(
    parts: Anatomy, layers: list[Any], where: list[Tensor], ids: Tensor, start: int, offset: int
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values (B, g, m, d) of the new tokens in each layer, read behind what comes before them."""
    cache = DynamicCache()
    fronts = []
    for i, (layer, at) in enumerate(zip(layers, where)):
        front = _columns(at < start)
        fronts.append(at[:, :front] >= 0)
        cache.update(layer.keys[:, :, :front], layer.values[:, :, :front], i)
    if len({f.shape[1] for f in fronts}) > 1:
        raise UnsupportedCallError("this cache holds different numbers of tokens in its layers; read the prompt again")
    m = ids.shape[1]
    at = torch.arange(start + offset, start + offset + m, device=ids.device).expand(ids.shape[0], -1)
    mask = torch.cat([fronts[0].long(), ids.new_ones(ids.shape[0], m)], 1)
    embeds = parts.decoder.get_input_embeddings()(ids)
    parts.decoder(inputs_embeds=embeds, attention_mask=mask, position_ids=at, past_key_values=cache, use_cache=True)
    return [(layer.keys[:, :, -m:], layer.values[:, :, -m:]) for layer in cache.layers]


def _columns(mask: Tensor) -> int:
    """How many columns hold what comes before the edit, the same in all rows."""
    counts = mask.sum(1)
    if bool((counts != counts[0]).any()):
        raise UnsupportedCallError("rows of this cache hold different tokens before the edit; edit them one by one")
    return int(counts[0])


def _splice(
    layer: Any,
    where: Tensor,
    new: tuple[Tensor, Tensor] | None,
    edit: tuple[int, int, int],
    rates: Tensor | None,
    shift: int,
) -> None:
    """Put new entries between what stays, and turn the keys behind them."""
    start, stop, m = edit
    front, back = _columns(where < start), _columns(where < stop)
    keys, values = layer.keys, layer.values
    tail = keys[:, :, back:]
    if shift and rates is not None and tail.shape[2]:
        width = 2 * len(rates)
        by = torch.full(tail.shape[:3], shift, device=keys.device)
        tail = torch.cat([turn(tail[..., :width], by, rates), tail[..., width:]], -1)
    middle = ([], []) if new is None else ([new[0]], [new[1]])
    layer.keys = torch.cat([keys[:, :, :front], *middle[0], tail], 2)
    layer.values = torch.cat([values[:, :, :front], *middle[1], values[:, :, back:]], 2)
    if isinstance(layer, HeldLayer) and layer.where is not None:
        heads = layer.where.shape[1]
        fresh = torch.arange(start, start + m, device=where.device).expand(len(where), -1)
        at = torch.cat([where[:, :front], fresh, where[:, back:] + shift], 1)
        layer.where = at[:, None].expand(-1, heads, -1).to(torch.int32)
        layer.seen, layer.asked, layer.recent = layer.seen + shift, layer.asked + shift, None
        if layer.tally is not None:
            zeros = layer.tally.new_zeros(*layer.tally.shape[:2], m)
            layer.tally = torch.cat([layer.tally[..., :front], zeros, layer.tally[..., back:]], -1)
