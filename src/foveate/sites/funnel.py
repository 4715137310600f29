"""Stage inputs: the one place where a prompt enters the decoder, and where visual tokens are dropped or merged.

A pre-hook on the decoder gathers embeddings, positions, masks and DeepStack features, and tells every cache layer which
positions it is about to hold. Later stages read the :class:`Call` it leaves.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ..errors import InputError, UnsupportedCallError
from ..stores.held import HeldLayer
from . import account, items, signals
from .call import Call, Current, pick
from .inputs import Inputs
from .masks import gather_mask
from .model import Anatomy
from .vision import NOTE, Tower


class Funnel:
    """Hooks on the decoder and on the model around it."""

    def __init__(self, anatomy: Anatomy, inputs: Inputs, tower: Tower | None) -> None:
        self.anatomy, self.inputs, self.tower = anatomy, inputs, tower
        self.current = Current()
        self.seeks = [m.name for m in inputs.methods]  # methods that must know which tokens are visual
        self.own_deepstack = 0  # DeepStack features to add ourselves, set by the layers stage

    def place(self, stack: ExitStack) -> None:
        """Put the hooks on."""
        add = stack.callback
        if self.seeks:
            add(self.anatomy.model.register_forward_pre_hook(self._refuse_labels, with_kwargs=True).remove)
        if self.anatomy.core is not self.anatomy.decoder:
            add(self.anatomy.core.register_forward_pre_hook(self._see, with_kwargs=True).remove)
        add(self.anatomy.decoder.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
        add(self.anatomy.decoder.register_forward_hook(self._leave).remove)

    # --- around the model -----------------------------------------------------------------------------------------

    def _refuse_labels(self, module: Any, args: Any, kwargs: Any) -> None:
        if kwargs.get("labels") is not None:
            raise UnsupportedCallError(
                f"labels have one entry for each token of the full prompt, and {self.seeks[0]} leaves fewer; "
                "call without labels and take the loss from the logits of the text that follows the image"
            )

    def _see(self, module: Any, args: Any, kwargs: Any) -> None:
        here = self.current
        here.ids = kwargs.get("input_ids", args[0] if args else None)
        given = kwargs.get("mm_encoder_outputs") or {}
        here.media = bool(given) or any(kwargs.get(k) is not None for k in ("pixel_values", "pixel_values_videos"))
        outputs = [given.get(k) for k in ("image", "video", "remembered")] if isinstance(given, dict) else []
        here.notes = tuple(note for o in outputs if (note := getattr(o, NOTE, None)) is not None)
        here.pace = kwargs.get("second_per_grid_ts")
        if self.tower is not None:
            self.tower.recent = []

    def _enter(self, module: Any, args: Any, kwargs: Any) -> Any:
        x, cache = kwargs.get("inputs_embeds"), kwargs.get("past_key_values")
        shape = x if x is not None else kwargs.get("input_ids", args[0] if args else None)
        b, n = shape.shape[:2]
        caching = kwargs.get("use_cache")
        if cache is None and (getattr(module.config, "use_cache", True) if caching is None else caching):
            cache = kwargs["past_key_values"] = DynamicCache(config=module.config)
        if cache is not None:
            install(cache, len(self.anatomy.layers))
        held = [layer for layer in cache.layers if isinstance(layer, HeldLayer)] if cache is not None else []
        seen = held[0].seen if held else 0
        mask = kwargs.get("attention_mask")
        flat = visible(mask) if n > 1 else None  # a single new token is never padding
        valid = torch.ones(b, n, dtype=torch.bool, device=shape.device) if flat is None else flat[:, -n:]
        ids, notes = self.current.ids, list(self.current.notes)
        visual = self._visual(ids, valid, x)
        at = torch.arange(n, device=shape.device).expand(b, n)
        padded = flat is not None and not bool(valid.all())
        call = Call(b, n, cache, seen == 0, at, valid, visual & valid, torch.where(valid, at + seen, -1), padded)
        call.before = sum(layer.nbytes for layer in held)
        self.current.call = call
        notes = notes or (self.tower.recent if self.tower is not None else [])
        acts = self.inputs.methods or any(note.kept is not None for note in notes)
        if ids is not None and x is not None and n > 1 and (acts or self.seeks) and bool(visual.any()):
            call.columns = signals.columns(self.anatomy, ids, notes)
            call.prompt, call.pace = x, _pace(self.current.pace, b, x.device)
            ends = signals.ends(call.columns, visual.shape, x.device)
            call.visual, call.ends = call.visual & ~ends, ends
            if acts:
                kwargs = self._reduce(call, dict(kwargs), ids, visual, ends, seen)
        if self.own_deepstack and kwargs.get("deepstack_visual_embeds"):
            kwargs = self._take_deepstack(call, dict(kwargs))
        if n > 1:
            call.visual_full = call.visual.sum(1).tolist()
        for layer in held:
            layer.expect(call.where, call.n, call.padded)
        kwargs["attention_mask"] = self._mask(call, mask, held, n)
        return args, kwargs

    def _visual(self, ids: Tensor | None, valid: Tensor, x: Tensor | None) -> Tensor:
        """(B, n) bool: placeholders of visual tokens among the tokens of this call; valid (B, n)."""
        n = valid.shape[1]
        if ids is not None and n > 1 and self.anatomy.visual_ids and ids.shape == valid.shape:
            return self.anatomy.visual(ids) if self.current.media else torch.zeros_like(valid)
        if ids is None and n > 1 and x is not None and self.seeks:
            raise InputError(
                f"{self.seeks[0]} must know which tokens are visual; call the model with input_ids "
                "(and pixel_values), not with inputs_embeds alone"
            )
        return torch.zeros_like(valid)

    def _reduce(
        self, call: Call, kwargs: dict[str, Any], ids: Tensor, visual: Tensor, ends: Tensor, seen: int
    ) -> dict[str, Any]:
        """The decoder's arguments for the tokens that stay; line ends are among them."""
        x = kwargs["inputs_embeds"].clone()
        moving = torch.tensor(self.anatomy.video_ids, device=ids.device, dtype=ids.dtype)
        found = items.find(visual & call.kept, self.inputs.scope, torch.isin(ids, moving))
        if self.inputs.together:
            call.runs = (visual & ~visual.roll(1, 1)).cumsum(1)
        found = [replace(it, where=it.where[~ends[it.row, it.where]]) for it in found]
        maps = self.inputs.decide(x, found, call)
        keep = call.kept & ~call.visual
        deep, deep_mask = kwargs.get("deepstack_visual_embeds"), kwargs.get("visual_pos_masks")
        if deep is not None and deep_mask is not None:
            deep = [_spread(d, deep_mask) for d in deep]
        for it, r in zip(found, maps):
            stay = it.where[r.keep[0]]
            for t in (x, *(deep or [])):
                t[it.row, stay] = r(t[it.row, it.where][None])[0]
            keep[it.row, stay] = True
        order = call.keep_only(keep)
        kwargs["inputs_embeds"] = pick(x, order)
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(seen, seen + call.n, device=x.device)[None]
        axes = positions if positions.ndim == 3 else positions[None]
        picked = torch.stack([pick(p, order) for p in axes])
        kwargs["position_ids"] = picked if positions.ndim == 3 else picked[0]
        if deep is not None and deep_mask is not None:
            new = pick(deep_mask, order) & call.kept
            kwargs["visual_pos_masks"] = new
            kwargs["deepstack_visual_embeds"] = [pick(d, order)[new] for d in deep]
        return kwargs

    def _take_deepstack(self, call: Call, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Layers will be shortened among those that DeepStack adds to: hand the features to the layer hooks instead."""
        mask = kwargs.pop("visual_pos_masks")
        call.deepstack = [_spread(d, mask) for d in kwargs.pop("deepstack_visual_embeds")]
        kwargs["visual_pos_masks"] = kwargs["deepstack_visual_embeds"] = None
        return kwargs

    def _mask(self, call: Call, mask: Any, held: list[HeldLayer], n: int) -> Any:
        call.prepared = isinstance(mask, dict) or (isinstance(mask, Tensor) and mask.ndim == 4)
        left = None if call.whole else call.index
        if isinstance(mask, dict):
            return {k: gather_mask(v, left, call.kept, n) for k, v in mask.items()}
        if isinstance(mask, Tensor) and mask.ndim == 4:
            return gather_mask(mask, left, call.kept, n)
        return self.flat_mask(call, held)

    @staticmethod
    def flat_mask(call: Call, held: list[HeldLayer]) -> Tensor:
        """(B, seen + m) int64: 0 at padding and at what a call no longer finds in any layer of the cache.

        Never None: gaps in the positions must not be read as packed sequences.
        """
        past = max((layer.held for layer in held), default=0)  # a sliding window holds less than the others
        gone = held[0].seen - past if held else 0
        parts = [call.kept.new_zeros(call.b, gone), call.kept.new_ones(call.b, past), call.kept]
        return torch.cat(parts, 1).long()

    def _leave(self, module: Any, args: Any, out: Any) -> None:
        here = self.current
        call, here.call, here.ids, here.notes = here.call, None, None, ()
        # later calls of several tokens without an image may be drafts, which are no part of a prefill
        if call is not None and call.n > 1 and (call.first or any(call.visual_full)):
            account.close(call, self.anatomy.layers, module.config, self.inputs.report)


def visible(mask: Any) -> Tensor | None:
    """Which tokens are not padding, (B, kv) bool, from a mask in whatever form it comes; None when all are visible."""
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if not isinstance(mask, Tensor):
        return None
    if mask.ndim == 4:  # the last query sees every token that is not padding
        last: Tensor = mask[:, 0, -1]
        return last if last.dtype == torch.bool else last == 0
    return mask.bool()


def _spread(features: Tensor, mask: Tensor) -> Tensor:
    """features (T, D) at the True places of mask (B, n) -> (B, n, D), zero elsewhere."""
    out = features.new_zeros(*mask.shape, features.shape[-1])
    out[mask] = features
    return out


def _pace(given: Any, b: int, device: torch.device) -> Tensor | None:
    """Seconds a frame of each of b rows, (b,), from those of all videos; of the first where a row has several."""
    if given is None or not len(given):
        return None
    all_of = torch.as_tensor(given, dtype=torch.float32, device=device).flatten()
    if b % len(all_of) == 0:  # beams: generate repeats each prompt's row
        return all_of.repeat_interleave(b // len(all_of))
    return all_of[:: len(all_of) // b] if len(all_of) % b == 0 else None


def install(cache: Any, layers: int) -> None:
    """Make a cache's layers ours, contents and all. Layers that are ours already, or not plain attention, stay."""
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    cache.layer_class_to_replicate = None
    for layer in cache.layers:
        if type(layer).__name__.startswith("Static") or getattr(layer, "is_compileable", False):
            raise UnsupportedCallError(
                "static caches fix their size before the prompt is shortened; "
                "call generate without cache_implementation='static'"
            )
        if type(layer) not in kinds and not isinstance(layer, HeldLayer) and "Linear" not in type(layer).__name__:
            raise UnsupportedCallError(
                f"{type(layer).__name__} cannot hold a shortened prompt; use the default dynamic cache"
            )
    if getattr(cache, "offloading", False):
        raise UnsupportedCallError("an offloaded cache cannot hold a shortened prompt; use the default dynamic cache")
    cache.layers[:] = [HeldLayer.adopt(layer) if type(layer) in kinds else layer for layer in cache.layers]
    cache.layers += [HeldLayer() for _ in range(layers - len(cache.layers))]
