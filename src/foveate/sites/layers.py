"""Stage layers: drop visual tokens between two layers of the LLM, and hand every layer what fits its own length."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PlanError
from ..report import Kept, Report
from ..tokens import Tokens
from . import guard, items, looks
from .call import Call, Heads, pick
from .funnel import Funnel
from .masks import fit, gather_mask
from .model import Anatomy, attention_of
from .tap import Watch


class LayerSite:
    """Pre-hooks on every layer; also what fits masks, so it is on whenever any stage shortens the prompt."""

    def __init__(self, anatomy: Anatomy, methods: list[Any], report: Report, funnel: Funnel) -> None:
        self.anatomy, self.methods, self.report, self.funnel = anatomy, methods, report, funnel
        n = len(anatomy.layers)
        self.windows = anatomy.windows
        funnel.seeks += [m.name for m in methods]
        self.at = {m: tuple(m.at(n)) for m in methods}
        for m, places in self.at.items():
            for k in places:
                late = {"last_attention", "last_heads"} & {*m.card.needs}
                if not 0 <= k < n or (k == 0 and late):
                    raise PlanError(f"{m.name} acts before layer {k}, but {anatomy.name} has layers 0 to {n - 1}")
        deepest = [max(places) for places in self.at.values() if places]
        first = [min(places) for places in self.at.values() if places]
        for i in range(len(methods) - 1):
            if deepest[i] > first[i + 1]:
                a, b = methods[i], methods[i + 1]
                raise PlanError(
                    f"{a.name} acts before layer {deepest[i]} but stands before {b.name}, which acts before layer "
                    f"{first[i + 1]}; write them in the order of their layers"
                )

    def place(self, stack: ExitStack) -> dict[nn.Module, list[Watch]]:
        """Put the hooks on; returns the attention watchers to install."""
        for i, layer in enumerate(self.anatomy.layers):
            stack.callback(layer.register_forward_pre_hook(self._enter(i), with_kwargs=True).remove)
        if trims := [min(places) for m, places in self.at.items() if getattr(m, "trims", False) and places]:
            hook = self.anatomy.decoder.register_forward_hook(self._trim(min(trims)), prepend=True)
            stack.callback(hook.remove)
        depth = self._deepstack_depth()
        if self.methods and depth and min(min(p) for p in self.at.values()) < depth:
            self.funnel.own_deepstack = depth
            for i in range(depth):
                add = stack.callback
                add(self.anatomy.layers[i].register_forward_hook(self._add_deepstack(i), prepend=True).remove)
        if transient := [k for m, places in self.at.items() if "transitions" in m.card.needs for k in places]:
            looks.transitions(self.anatomy.layers[: max(transient)], self.funnel, stack)
        wanted: dict[nn.Module, list[Watch]] = {}
        for m, places in self.at.items():
            for i in (k - 1 for k in places):
                watching = wanted.setdefault(attention_of(self.anatomy.layers[i]), [])
                if "last_attention" in m.card.needs:
                    watching.append(looks.LastRow(self.funnel, i, m))
                if "last_heads" in m.card.needs:
                    watching.append(looks.LastHeads(self.funnel, i))
        return {module: watching for module, watching in wanted.items() if watching}

    @property
    def taps(self) -> bool:
        """Whether attention has to be read."""
        return any(n in m.card.needs for m in self.methods for n in looks.TAPPED)

    def _deepstack_depth(self) -> int:
        return len(getattr(self.anatomy.encoder, "deepstack_merger_list", None) or ())

    def _add_deepstack(self, i: int) -> Any:
        def hook(layer: nn.Module, args: Any, out: Any) -> Any:
            call = self.funnel.current.get()
            if call is None or i >= len(call.deepstack):
                return None
            x = out[0] if isinstance(out, tuple) else out
            x = x + call.deepstack[i].to(x.dtype)
            return (x, *out[1:]) if isinstance(out, tuple) else x

        return hook

    def _trim(self, first: int) -> Any:
        """After a prefill: cut the caches of layers from ``first`` on to the tokens that were left at its end."""

        def hook(module: nn.Module, args: Any, out: Any) -> None:
            call = self.funnel.current.get()
            if call is None or call.since is None:
                return
            for i in range(first, len(self.anatomy.layers)):
                held = call.held(i)
                if held is None or held.where is None or held.window is not None:
                    continue
                here = held.where[:, 0]
                left = (here[:, :, None] == call.where[:, None].masked_fill(~call.kept[:, None], -2)).any(-1)
                held.cut(left | ((here >= 0) & (here < held.seen - call.n)))

        return hook

    def _enter(self, i: int) -> Any:
        def hook(layer: nn.Module, args: Any, kwargs: Any) -> Any:
            call = self.funnel.current.get()
            if call is None:
                return None
            x = args[0] if args else kwargs["hidden_states"]
            entry = x.shape[1]
            kwargs = dict(kwargs)
            given = kwargs.get("position_embeddings")
            if call.m != entry:
                raise RuntimeError(f"layer {i} was given {entry} tokens where {call.m} were expected")
            acting = [m for m in self.methods if i in self.at[m]]
            if acting and call.n > 1 and bool(call.visual.any()):
                x = self._shorten(i, acting, layer, x, call, given)
                if call.held(i) is not None:
                    for j in range(i, len(self.anatomy.layers)):
                        if (held := call.held(j)) is not None:
                            held.expect(call.where, call.n, call.padded)
            if call.n > 1:
                call.lengths.append(call.m)
            if given is not None:
                kwargs["position_embeddings"] = self._positions(call, given)
            held = call.held(i)
            kind = self.anatomy.decoder.config._attn_implementation
            mask = gather_mask(kwargs.get("attention_mask"), call.since, call.kept, call.entered)
            heads = self.anatomy.decoder.config.num_attention_heads
            kwargs["attention_mask"] = fit(mask, held, self.windows[i], call, heads, x.dtype, kind)
            kwargs["position_ids"] = None  # rotary tables are made; gaps would be read as packed sequences
            return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

        return hook

    def _positions(self, call: Call, given: Any) -> Any:
        since = call.since
        if since is None:
            return given
        # (B, m, d) each, or (3, B, m, d) where older transformers mix the M-RoPE axes inside the attention
        return tuple(torch.stack([pick(p, since) for p in t]) if t.ndim == 4 else pick(t, since) for t in given)

    def _shorten(self, i: int, acting: list[Any], layer: nn.Module, x: Tensor, call: Call, given: Any) -> Tensor:
        found = self._items(call)
        if call.since is None:
            call.since = torch.arange(call.m, device=x.device).expand(call.b, -1)
            call.entered = call.m
        for m in acting:
            attention: dict[str, Tensor] = {}
            row = self.report.row("layers", str(m), i)
            if (costs := self.funnel.inputs.guarded) is not None:
                sizes = int(call.visual.sum(1).max()), max(call.visual_full), call.m
                if (reason := guard.layers(self.anatomy, m, i, *sizes, costs)) is not None:
                    self.report.decline(reason)
                    row.note = "declined"
                    continue
            with self.report.clock(row, x.device):
                positions = self._positions(call, given)
                heads = looks.attention(m, i, layer, x, call, positions, self.windows, attention)

                def signals(
                    batch: list[items.Item],
                    m: Any = m,
                    x: Tensor = x,
                    attention: dict[str, Tensor] = attention,
                    heads: Heads | None = heads,
                ) -> Tokens:
                    return looks.tokens(self.anatomy, m, i, batch, call, x, attention, heads)

                maps = items.run(found, signals, m.reduce, looks.alone(m))
                x = x.clone()
                keep = call.kept & ~call.visual
                for it, r in zip(found, maps):
                    stay = it.where[r.keep[0]]
                    if not r.selects:
                        x[it.row, stay] = r(x[it.row, it.where][None])[0]
                    keep[it.row, stay] = True
                    where = call.where[it.row, it.where]
                    self.report.kept.append(Kept("layers", str(m), it.row, it.index, i, r, where))
                    row.tokens_in += r.n
                    row.tokens_out += r.m
                order = call.keep_only(keep)
                x = pick(x, order)
                call.since = call.since.gather(1, order)
                if i - 1 in call.attention:
                    call.attention[i - 1] = pick(call.attention[i - 1], order, dim=2)
                if i - 1 in call.heads:
                    call.heads[i - 1] = call.heads[i - 1].pick(order)
                call.transitions = [pick(t, order) for t in call.transitions]
                call.cuts.append((row, i, sum(r.n - r.m for r in maps)))
                found = self._items(call)
        return x

    def _items(self, call: Call) -> list[items.Item]:
        return [replace(it, full=call.visual_full[it.row]) for it in items.find(call.visual, "row")]
