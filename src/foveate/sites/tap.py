"""Reading attention without switching it off: a pass-through kind of attention that shows q and k to whoever asks.

It is a name in transformers' own registries. The kind it replaced still does the work, so SDPA and FlashAttention stay
on; only rows that a method asked for are computed besides.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import UnsupportedCallError
from ..parts.score import causal_tail
from ..stores.compact import Coded
from ..stores.stretches import Reading

PREFIX = "foveate_"


class Seen(NamedTuple):
    """One attention call: q (B, H, q, d), k and v (B, g, n, d), after RoPE; the mask as the layer got it."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    scaling: float


class Watch:
    """What to do around the attention of one module; subclasses override what they need.

    ``reads``: whether it looks at keys and values. Where heads hold different numbers of entries these have to be laid
    out for it, short heads padded in front; while single tokens are decoded that is never done.
    """

    reads = True

    def before(self, seen: Seen) -> Tensor | None:
        """May replace the mask (return it), for instance to add a bias to the logits."""
        return seen.mask

    def instead(self, seen: Seen) -> Tensor | None:
        """May compute the attention itself: (B, q, H, d); None leaves it to the model."""
        return None

    def after(self, seen: Seen) -> None:
        """Called once attention was computed."""


#: Attribute of an attention module that holds its watchers while a plan is on the model. An attribute and not a
#: ContextVar: generation often runs in a thread of its own (streamers), which would not see the caller's context.
_ATTRIBUTE = "_foveate_watch"
_probe: ContextVar[_Probe | None] = ContextVar("foveate_probe", default=None)


def install(module: Any, watchers: dict[nn.Module, list[Watch]], stack: ExitStack) -> None:
    """Let ``watchers`` (by attention module) see the attention of a (sub)model until the stack closes."""
    kinds = {id(m.config): m.config for m in module.modules() if hasattr(m, "config")}
    for config in kinds.values():
        kind = getattr(config, "_attn_implementation", None) or "eager"
        stack.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation_internal)
        config._attn_implementation_internal = _name(kind)
    for attention, watching in watchers.items():
        before = attention.__dict__.get(_ATTRIBUTE)
        setattr(attention, _ATTRIBUTE, watching)
        if before is None:
            stack.callback(delattr, attention, _ATTRIBUTE)
        else:
            stack.callback(setattr, attention, _ATTRIBUTE, before)


def add(module: Any, watchers: dict[nn.Module, Watch], stack: ExitStack) -> None:
    """Let one more watcher each see the attention of a (sub)model, after those already on it."""
    install(module, {a: [*a.__dict__.get(_ATTRIBUTE, ()), w] for a, w in watchers.items()}, stack)


def _name(kind: str) -> str:
    """The registered pass-through name of an attention kind."""
    if kind.startswith(PREFIX):
        return kind
    name = PREFIX + kind
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _through(kind))
        # an unknown mask name would silently mean no mask at all
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kind])
    return name


def _through(kind: str) -> Callable[..., Any]:
    def attend(
        module: nn.Module, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Any:
        mask = attention_mask
        scaling = kwargs.get("scaling") or q.shape[-1] ** -0.5
        if (probing := _probe.get()) is not None:
            probing.seen = Seen(q, k, v, mask, scaling)
            raise _Stop
        watching = module.__dict__.get(_ATTRIBUTE, ())
        if isinstance(k, Coded):
            if mask is None and not any(watch.reads for watch in watching) and not _biased(kwargs):
                for watch in watching:
                    watch.before(Seen(q, cast(Tensor, k), cast(Tensor, k), None, scaling))
                made = k.attend(q, scaling)
                for watch in watching:
                    watch.after(Seen(q, cast(Tensor, k), cast(Tensor, k), None, scaling))
                return made, None
            k, v = k.dense()
        if isinstance(k, Reading):
            return _over_heads(k, q, scaling, watching, kwargs)
        for watch in watching:
            mask = watch.before(Seen(q, k, v, mask, scaling))
        seen = Seen(q, k, v, mask, scaling)
        made = next((out for watch in watching if (out := watch.instead(seen)) is not None), None)
        if made is not None and (name := _biased(kwargs)):
            raise UnsupportedCallError(f"attention with {name} cannot run over a part of the entries only")
        out = _real(kind, module)(module, q, k, v, mask, **kwargs) if made is None else (made, None)
        for watch in watching:
            watch.after(seen)
        return out

    return attend


def _over_heads(
    reading: Reading, q: Tensor, scaling: float, watching: Sequence[Watch], more: dict[str, Any]
) -> tuple[Tensor, None]:
    """Attention over a layer whose heads hold different numbers of entries; the store knows who sees what."""
    if name := _biased(more):
        raise UnsupportedCallError(f"attention with {name} cannot run over heads that hold different numbers")
    seen = Seen(q, cast(Tensor, reading), cast(Tensor, reading), None, scaling)
    if q.shape[2] > 1 and any(watch.reads for watch in watching):
        k, v, where = reading.dense(q.shape[0])
        visible = (where >= 0).repeat_interleave(q.shape[1] // k.shape[1], 1)[:, :, None].repeat(1, 1, q.shape[2], 1)
        visible[..., -q.shape[2] :] &= causal_tail(q.shape[2], q.shape[2], q.device)
        seen = Seen(q, k, v, visible, scaling)
    for watch in watching:
        watch.before(seen)
    out = reading.attend(q, scaling)
    for watch in watching:
        watch.after(seen)
    return out, None


def _biased(more: dict[str, Any]) -> str | None:
    """What makes an attention call more than a softmax over products, if anything does."""
    return next((name for name in ("softcap", "s_aux", "position_bias") if more.get(name) is not None), None)


def _real(kind: str, module: nn.Module) -> Callable[..., Any]:
    if kind == "eager":
        found: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
    else:
        found = ALL_ATTENTION_FUNCTIONS[kind]
    return found


class _Stop(Exception):  # noqa: N818  (a signal, not an error)
    """Ends a probe once q and k are known."""


class _Probe:
    seen: Seen | None = None


def probe(attention: nn.Module, hidden: Tensor, **kwargs: Any) -> Seen:
    """q and k that a layer's attention would use on ``hidden`` (B, n, D), already normalised: its own projections,
    q/k-norms and RoPE run, then it is stopped before any attention is computed and nothing enters a cache."""
    probing = _Probe()
    token = _probe.set(probing)
    try:
        attention(hidden_states=hidden, attention_mask=None, past_key_values=None, **kwargs)
    except _Stop:
        pass
    finally:
        _probe.reset(token)
    if probing.seen is None:
        raise RuntimeError(f"{type(attention).__name__} did not reach its attention function")
    return probing.seen


def undo_capture(model: Any, stack: ExitStack) -> None:
    """transformers installs hooks of its own, lazily, when hidden states are first asked for. Those that come inside
    the block go with it, so that the model leaves as it came."""
    flag = "_output_capturing_hooks_installed"
    before = {m: (set(m._forward_hooks), flag in m.__dict__) for m in model.modules()}

    def restore() -> None:
        for m, (hooks, flagged) in before.items():
            for key in [k for k in m._forward_hooks if k not in hooks]:
                if "output_capturing_hook" in getattr(m._forward_hooks[key], "__qualname__", ""):
                    del m._forward_hooks[key]
            if not flagged:
                m.__dict__.pop(flag, None)

    stack.callback(restore)
