"""The mask-out reference: what any plan must compute, from the bare model and masks alone.

Dropping tokens at a stage must give the same numbers as running the whole sequence with the dropped columns hidden, at
their original positions, from the layers behind that stage. Nothing is shortened here, so a mistake in positions, masks
or cache lengths cannot hide.

    with foveate.apply(model, plan) as report:
        out = model.generate(**inputs, output_logits=True, return_dict_in_generate=True)
    seen = visible(model, report, out.past_key_values, inputs["input_ids"].shape)
    logits = mask_out(model, inputs, out.sequences[:, inputs["input_ids"].shape[1]:], seen)   # == out.logits
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from ..report import Kept, Report
from ..sites.model import anatomy
from ..stores.held import HeldLayer


@dataclass(frozen=True)
class Visible:
    """Which columns of a prompt of n tokens can be read, by layer.

    Attributes:
        own: (B, n) bool each, by the prompt's own tokens.
        later: (B, 1 or KV heads, n) bool each, by all tokens that come after the prompt.
        mixed: decisions that merge: their kept tokens are replaced by the mixtures.
    """

    own: list[Tensor]
    later: list[Tensor]
    mixed: tuple[Kept, ...] = ()


def visible(
    model: Any, report: Report, cache: Any, shape: Sequence[int], *, start: int = 0, kept: Sequence[Kept] | None = None
) -> Visible:
    """What a run under a plan left to be read, from its report and its cache.

    Args:
        model: the model that ran.
        report: of the run.
        cache: the cache of the run, or None if it had none.
        shape: (B, n) of the prompt.
        start: tokens that were cached before the prompt (a later turn of a conversation).
        kept: the decisions about this prompt, by default all of the report.
    """
    b, n = shape
    layers = len(anatomy(model).layers)
    own = [torch.ones(b, n, dtype=torch.bool) for _ in range(layers)]
    decided = [k for k in (report.kept if kept is None else kept) if k.where is not None]
    for k in decided:
        assert k.where is not None
        gone = (k.where - start)[~k.reduction.kept[0]].cpu()
        for mask in own[k.layer or 0 :]:
            mask[k.row, gone] = False
    later = [mask[:, None] for mask in own]
    for i, layer in enumerate(cache.layers if cache is not None else ()):
        if isinstance(layer, HeldLayer) and layer.where is not None and layer.window is None:
            at = layer.where.long().cpu() - start
            spare = torch.where((at >= 0) & (at < n), at, n)
            held = torch.zeros(b, at.shape[1], n + 1, dtype=torch.bool).scatter(2, spare, True)
            later[i] = held[..., :n]
    return Visible(own, later, tuple(k for k in decided if not k.reduction.selects))


class MaskOut:
    """A bare model and an ordinary cache, fed one stretch of tokens after the other while columns are hidden."""

    def __init__(self, model: Any) -> None:
        self.model, self.anatomy = model, anatomy(model)
        self.cache: Any = DynamicCache(config=self.anatomy.decoder.config)
        self.past: list[Tensor] = []  # by layer (B, 1 or H, columns so far) bool
        self.last: Tensor | None = None  # (3, B, 1) the last M-RoPE position

    def feed(self, seen: Visible | None = None, **inputs: Any) -> Tensor:
        """Run the model on the next stretch, under ``seen`` (default: all of it visible) -> logits (B, n, V)."""
        b, n = inputs["input_ids"].shape
        if seen is None:
            all_ = [torch.ones(b, n, dtype=torch.bool) for _ in self.anatomy.layers]
            seen = Visible(all_, [mask[:, None] for mask in all_])
        if not self.past:
            self.past = [torch.ones(b, 1, 0, dtype=torch.bool) for _ in self.anatomy.layers]
        if (at := self._positions(inputs)) is not None:
            inputs = {**inputs, "position_ids": at}
        with _imposed(self, seen):
            out = self.model(**inputs, past_key_values=self.cache, use_cache=True)
        for i, later in enumerate(seen.later):
            wide = max(self.past[i].shape[1], later.shape[1])
            self.past[i] = torch.cat([t.expand(-1, wide, -1) for t in (self.past[i], later)], -1)
        logits: Tensor = out.logits
        return logits

    def _positions(self, inputs: dict[str, Any]) -> Tensor | None:
        """Places of a later stretch for models with M-RoPE: they go on from the last one, as in generate (the offset
        that such a model keeps for itself may differ by a few after a video). None where the model counts itself."""
        if self.last is None or "position_ids" in inputs:
            return None
        return self.last + torch.arange(1, inputs["input_ids"].shape[1] + 1, device=self.last.device)


@torch.no_grad()
def mask_out(model: Any, inputs: dict[str, Any], tokens: Tensor, seen: Visible) -> Tensor:
    """Logits of the reference at the prompt's last place and after each given token: (B, steps, V).

    tokens (B, steps): what was generated; the last one is not needed.
    """
    run = MaskOut(model)
    mask = inputs["attention_mask"]
    logits = [run.feed(seen, **inputs)[:, -1]]
    for step in range(tokens.shape[1] - 1):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        logits.append(run.feed(input_ids=tokens[:, step : step + 1], attention_mask=mask)[:, -1])
    return torch.stack(logits, 1)


@contextmanager
def _imposed(run: MaskOut, seen: Visible) -> Iterator[None]:
    """Hooks that hide columns from every layer, and mix what was merged, for one call."""
    decoder, layers = run.anatomy.decoder, run.anatomy.layers
    heads = decoder.config.num_attention_heads
    kind = decoder.config._attn_implementation

    def hide(i: int) -> Any:
        def hook(layer: nn.Module, args: Any, kwargs: Any) -> Any:
            x = args[0] if args else kwargs["hidden_states"]
            for k in seen.mixed:
                if k.layer == i:
                    x = _mix(x, k)
            allowed = _allowed(run.past[i], seen.own[i], heads).to(x.device)
            mask = _both(kwargs.get("attention_mask"), allowed, x.dtype, kind)
            if args:
                return (x, *args[1:]), {**kwargs, "attention_mask": mask}
            return args, {**kwargs, "hidden_states": x, "attention_mask": mask}

        return hook

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        x, deep, at = (kwargs.get(k) for k in ("inputs_embeds", "deepstack_visual_embeds", "visual_pos_masks"))
        for k in seen.mixed:
            if k.layer is None:
                x = _mix(x, k)
                deep = None if deep is None else [_mix(_spread(d, at), k)[at] for d in deep]
        if (at_ := kwargs.get("position_ids")) is not None and at_.ndim == 3:
            run.last = at_[-3:, :, -1:]
        changed = {"inputs_embeds": x, **({} if deep is None else {"deepstack_visual_embeds": deep})}
        return args, {**kwargs, **changed}

    with ExitStack() as stack:
        stack.callback(decoder.register_forward_pre_hook(enter, with_kwargs=True).remove)
        for i, layer in enumerate(layers):
            stack.callback(layer.register_forward_pre_hook(hide(i), with_kwargs=True).remove)
        yield


def _mix(x: Tensor, k: Kept) -> Tensor:
    """x (B, n, D) with the tokens that decision ``k`` keeps replaced by its mixtures."""
    assert k.where is not None
    x = x.clone()
    x[k.row, k.where[k.reduction.keep[0]]] = k.reduction(x[k.row, k.where][None])[0]
    return x


def _spread(features: Tensor, at: Tensor) -> Tensor:
    """features (T, D) at the True places of at (B, n) -> (B, n, D)."""
    out = features.new_zeros(*at.shape, features.shape[-1])
    out[at] = features
    return out


def _allowed(past: Tensor, own: Tensor, heads: int) -> Tensor:
    """past (B, 1 or KV heads, p), own (B, n) -> (B, 1 or H, n, p + n) bool; every token sees itself, hidden or not,
    so that no row of the softmax is empty (a hidden token is read by nobody, so it does not matter what it reads)."""
    b, n = own.shape
    here = own[:, None, None] | torch.eye(n, dtype=torch.bool)
    if past.shape[1] > 1:
        past = past.repeat_interleave(heads // past.shape[1], dim=1)
    shape = (b, past.shape[1], n, -1)
    return torch.cat([past[:, :, None].expand(shape), here.expand(shape)], -1)


def _both(mask: Tensor | None, allowed: Tensor, dtype: torch.dtype, kind: str) -> Tensor:
    """The model's own mask (None: causal; it may cover only the latest columns) and ours, in the kind's form."""
    q = allowed.shape[2]
    if mask is None:
        behind = allowed.shape[-1] - q
        mask = torch.ones_like(allowed[0, 0]).tril(behind)[None, None]
        if kind.endswith("eager"):
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    allowed = allowed[..., allowed.shape[-1] - mask.shape[-1] :]
    if mask.dtype == torch.bool:
        return mask & allowed
    return torch.where(allowed, mask, torch.finfo(mask.dtype).min)
