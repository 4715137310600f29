"""Stage inputs: the one place where a prompt enters the decoder, and where visual tokens are dropped or merged.

A pre-hook on the decoder gathers embeddings, positions, masks and DeepStack features, and tells every cache layer which
positions it is about to hold. Later stages read the :class:`Call` it leaves.
"""

from __future__ import annotations

from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ..errors import InputError, UnsupportedCallError
from ..reduction import Reduction
from ..report import Kept, Report
from ..stores.held import HeldLayer
from ..tokens import Tokens
from . import cost, guard, items
from .call import Call, pick
from .masks import gather_mask
from .model import Anatomy
from .vision import NOTE, Note, Tower


class Funnel:
    """Hooks on the decoder and on the model around it."""

    def __init__(
        self, anatomy: Anatomy, methods: list[Any], report: Report, tower: Tower | None, guarded: bool
    ) -> None:
        self.anatomy, self.methods, self.report, self.tower, self.guarded = anatomy, methods, report, tower, guarded
        self.current: ContextVar[Call | None] = ContextVar("foveate_call", default=None)
        self.ids: Tensor | None = None
        self.notes: list[Note] = []
        self.own_deepstack = 0  # DeepStack features to add ourselves, set by the layers stage

    def place(self, stack: ExitStack) -> None:
        """Put the hooks on."""
        add = stack.callback
        if self.anatomy.core is not self.anatomy.decoder:
            add(self.anatomy.core.register_forward_pre_hook(self._see, with_kwargs=True).remove)
        add(self.anatomy.decoder.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
        add(self.anatomy.decoder.register_forward_hook(self._leave, with_kwargs=True).remove)

    # --- around the model -----------------------------------------------------------------------------------------

    def _see(self, module: Any, args: Any, kwargs: Any) -> None:
        self.ids = kwargs.get("input_ids", args[0] if args else None)
        given = kwargs.get("mm_encoder_outputs") or {}
        outputs = [given.get("image"), given.get("video")] if isinstance(given, dict) else []
        self.notes = [note for o in outputs if (note := getattr(o, NOTE, None)) is not None]
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
        flat = visible(mask)
        valid = torch.ones(b, n, dtype=torch.bool, device=shape.device) if flat is None else flat[:, -n:]
        visual = self._visual(b, n, x)
        at = torch.arange(n, device=shape.device).expand(b, n)
        where = torch.where(valid, at + seen, -1)
        padded = flat is not None and not bool(valid.all())
        call = Call(b, n, cache, seen == 0, at, valid, visual & valid, where, padded)
        self.current.set(call)
        if x is not None and n > 1 and (self.methods or self._encoder_dropped()) and bool(visual.any()):
            kwargs = self._reduce(call, dict(kwargs), visual)
        if self.own_deepstack and kwargs.get("deepstack_visual_embeds"):
            kwargs = self._take_deepstack(call, dict(kwargs))
        call.visual_full = int(call.visual.sum(1).max()) if n > 1 else 0
        self._tell(call, held)
        kwargs["attention_mask"] = self._mask(call, mask, held, n)
        return args, kwargs

    def _visual(self, b: int, n: int, x: Tensor | None) -> Tensor:
        ids = self.ids
        if ids is None or not self.anatomy.visual_ids or tuple(ids.shape) != (b, n):
            if self.methods and x is not None and n > 1 and self.anatomy.visual_ids and ids is None:
                raise InputError(
                    f"{self.methods[0].name} must know which tokens are visual; call the model with input_ids "
                    "(and pixel_values), not with inputs_embeds alone"
                )
            device = x.device if x is not None else (ids.device if ids is not None else None)
            return torch.zeros(b, n, dtype=torch.bool, device=device)
        return self.anatomy.visual(ids)

    def _encoder_dropped(self) -> bool:
        return any(note.kept is not None for note in self._notes())

    def _notes(self) -> list[Note]:
        return self.notes or (self.tower.recent if self.tower is not None else [])

    # --- deciding ---------------------------------------------------------------------------------------------------

    def _reduce(self, call: Call, kwargs: dict[str, Any], visual: Tensor) -> dict[str, Any]:
        x = kwargs["inputs_embeds"].clone()
        ids = self.ids
        assert ids is not None
        columns = self._columns(ids)
        video = (
            torch.isin(ids, torch.tensor(self.anatomy.video_ids, device=ids.device)) if self.anatomy.video_ids else None
        )
        found = items.find(visual & call.kept, self.anatomy.family.scope, video)
        first = self._drop_encoded(found, columns)
        maps = self._decide(x, found, first, columns, call)
        keep = call.kept & ~visual
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
            positions = torch.arange(call.n, device=x.device)[None] + (call.where.min() * 0 + self._seen(call))
        kwargs["position_ids"] = (
            pick(positions, order, dim=positions.ndim - 1)
            if positions.ndim == 2
            else torch.stack([pick(p, order) for p in positions])
        )
        if deep is not None and deep_mask is not None:
            new = pick(deep_mask, order) & call.kept
            kwargs["visual_pos_masks"] = new
            kwargs["deepstack_visual_embeds"] = [pick(d, order)[new] for d in deep]
        return kwargs

    def _seen(self, call: Call) -> int:
        held = call.held(0)
        return held.seen if held is not None else 0

    def _columns(self, ids: Tensor) -> list[tuple[Note, Tensor]]:
        """For each note (B, n): the column of the note's T tokens that stands at each placeholder, -1 elsewhere."""
        out = []
        notes = list(self._notes())
        for wanted in (self.anatomy.image_ids, self.anatomy.video_ids):
            mine = torch.isin(ids, torch.tensor(wanted, device=ids.device, dtype=ids.dtype)) if wanted else None
            if mine is None or not notes or not bool(mine.any()):
                continue
            note = notes.pop(0)
            sizes = [t.shape[-1] for t in note.scores.values()] + ([len(note.kept)] if note.kept is not None else [])
            counts = mine.sum(1)
            total = int(counts.sum())
            if not sizes or total % sizes[0]:
                continue
            repeat = total // sizes[0]  # beams: generate repeats each prompt's rows
            own = counts[::repeat]
            start = (own.cumsum(0) - own).repeat_interleave(repeat)[: len(counts)]
            column = (start[:, None] + mine.cumsum(1) - 1).masked_fill(~mine, -1)
            out.append((note, column))
        return out

    def _drop_encoded(self, found: list[items.Item], columns: list[tuple[Note, Tensor]]) -> list[Reduction]:
        """What the encoder already dropped, as a selection for each item."""
        maps = []
        for it in found:
            mask = torch.ones(1, len(it.where), dtype=torch.bool, device=it.where.device)
            for note, column in columns:
                at = column[it.row, it.where]
                if note.kept is not None and bool((at >= 0).all()):
                    mask = note.kept[at][None]
            maps.append(Reduction.from_mask(mask))
        return maps

    def _decide(
        self, x: Tensor, found: list[items.Item], first: list[Reduction], columns: list[tuple[Note, Tensor]], call: Call
    ) -> list[Reduction]:
        left = [items.Item(it.row, it.where[r.keep[0]], it.index) for it, r in zip(found, first)]
        text = any("text" in m.card.needs for m in self.methods)
        totals = dict(enumerate(first))
        lookup = {(it.row, it.index): i for i, it in enumerate(found)}

        def signals(batch: list[items.Item]) -> Tokens:
            rows = torch.stack([x[it.row, it.where] for it in batch])
            made: dict[str, Any] = {}
            if text:
                row = batch[0].row
                made["text"] = x[row, call.kept[row] & ~call.visual[row]][None]
            for name in {n for m in self.methods for need in m.card.needs for n in need.split("|")} - {
                "features",
                "text",
            }:
                value = self._score(name, batch, columns)
                if value is not None:
                    made[name] = value
            return Tokens(rows, layers=len(self.anatomy.layers), full=rows.shape[1], **made)

        def decide(tokens: Tokens) -> Reduction:
            total = Reduction.identity(tokens.x.shape[0], tokens.n, tokens.x.device)
            for m in self.methods:
                row = self.report.row("inputs", str(m))
                row.tokens_in += tokens.x.shape[0] * tokens.n
                reason = guard.too_little(self.anatomy, m, tokens, call.n) if self.guarded else None
                if reason is not None:
                    self.report.decline(reason)
                    row.note = "declined"
                else:
                    with self.report.clock(row, tokens.x.device):
                        r = m.reduce(tokens)
                        tokens = items.narrow(tokens, r)
                        total = total.then(r)
                row.tokens_out += tokens.x.shape[0] * tokens.n
            return total

        maps = items.run(left, signals, decide, alone=text)
        for it, r in zip(left, maps):
            i = lookup[it.row, it.index]
            totals[i] = totals[i].then(r)
            kept = Kept("inputs", " + ".join(map(str, self.methods)), it.row, it.index, None, totals[i], found[i].where)
            self.report.kept.append(kept)
        return [totals[i] for i in range(len(found))]

    def _score(self, name: str, batch: list[items.Item], columns: list[tuple[Note, Tensor]]) -> Tensor | None:
        for note, column in columns:
            at = torch.stack([column[it.row, it.where] for it in batch])
            if name in note.scores and bool((at >= 0).all()):
                value = note.scores[name][:, at].movedim(0, 1)  # (items, C, n)
                return value[:, 0] if name == "received_attention" else value
        return None

    # --- telling the rest -------------------------------------------------------------------------------------------

    def _take_deepstack(self, call: Call, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Layers will be shortened among those that DeepStack adds to: hand the features to the layer hooks instead."""
        mask = kwargs.pop("visual_pos_masks")
        call.deepstack = [_spread(d, mask) for d in kwargs.pop("deepstack_visual_embeds")]
        kwargs["visual_pos_masks"] = kwargs["deepstack_visual_embeds"] = None
        return kwargs

    def _tell(self, call: Call, held: list[HeldLayer]) -> None:
        for layer in held:
            layer.expect(call.where, call.n, call.padded)

    def _mask(self, call: Call, mask: Any, held: list[HeldLayer], n: int) -> Any:
        if isinstance(mask, dict):
            return {k: gather_mask(v, call, n) for k, v in mask.items()}
        if isinstance(mask, Tensor) and mask.ndim == 4:
            return gather_mask(mask, call, n)
        # never None: gaps in the positions must not be read as packed sequences
        first = held[0] if held else None
        past = first.held if first is not None else 0
        gone = first.seen - past if first is not None else 0
        parts = [call.kept.new_zeros(call.b, gone), call.kept.new_ones(call.b, past), call.kept]
        return torch.cat(parts, 1).long()

    def _leave(self, module: Any, args: Any, kwargs: Any, out: Any) -> None:
        call = self.current.get()
        self.current.set(None)
        self.ids, self.notes = None, []
        if call is None or call.n == 1:
            return
        self._account(call, kwargs.get("inputs_embeds"))

    def _account(self, call: Call, x: Tensor | None) -> None:
        layers, report = self.anatomy.layers, self.report
        report.prefills += int(call.first)
        entered = call.lengths or [call.m] * len(layers)
        past = [0] * len(layers)
        here = entered[0]
        real = call.b * cost.stack_flops(layers, entered, past)
        inputs = call.b * cost.stack_flops(layers, [here] * len(layers), past)
        full = call.b * cost.stack_flops(layers, [call.n] * len(layers), past)
        report.flops += real
        report.flops_full += full
        held = [h for i in range(len(layers)) if (h := call.held(i)) is not None]
        item = next((h.keys.element_size() for h in held if h.keys is not None), 0)
        token = cost.kv_bytes_per_token(self.anatomy.decoder.config, item) * call.b
        report.kv_bytes += sum(h.nbytes for h in held)
        report.kv_bytes_full += token * call.n * len(held)
        stage = {"inputs": (inputs, full, [here] * len(held), call.n), "layers": (real, inputs, entered, here)}
        for row in report.rows:
            if row.stage in stage:
                flops, before, lengths, was = stage[row.stage]
                row.flops, row.flops_full = row.flops + flops, row.flops_full + before
                row.kv_bytes += token * sum(lengths[: len(held)])
                row.kv_bytes_full += token * was * len(held)


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
