"""The target reading with parts of its layers left out: a draft of what it would say, or a cheaper way to say it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..decode._drafter import Bend, Skip
from ..errors import UnsupportedCallError, UnsupportedModelError
from ..stores.held import HeldLayer
from .model import Anatomy, anatomy, attention_of, mlp_of
from .steps import Steps


@contextmanager
def leaving_out(parts: Anatomy, skip: Skip) -> Iterator[None]:
    """Inside, these sub-layers add nothing; their cache entries are zeros, so that every layer stays as long."""
    undo: list[nn.Module] = []

    def replace(module: nn.Module, forward: Any) -> None:
        module.__dict__["forward"] = forward
        undo.append(module)

    try:
        for i, layer in enumerate(parts.layers):
            no_attention, no_mlp = (i, "attention") in skip, (i, "mlp") in skip
            if no_attention and no_mlp:
                replace(layer, _pass(parts, i))
            elif no_attention:
                replace(attention_of(layer), _nothing(parts, i))
            elif no_mlp:
                replace(mlp_of(layer), torch.zeros_like)
        yield
    finally:
        for module in undo:
            del module.__dict__["forward"]


def _pass(parts: Anatomy, i: int) -> Any:
    """A layer that hands on what it gets."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        _fill(parts, i, kwargs.get("past_key_values"), hidden_states)
        return hidden_states

    return forward


def _nothing(parts: Anatomy, i: int) -> Any:
    """An attention that adds nothing."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        _fill(parts, i, kwargs.get("past_key_values"), hidden_states)
        return torch.zeros_like(hidden_states), None

    return forward


def _fill(parts: Anatomy, i: int, cache: Any, x: Tensor) -> None:
    """Entries of zeros for tokens x (B, k, D) in the cache of layer i."""
    if cache is None:
        return
    config = parts.decoder.config
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    size = int(getattr(attention_of(parts.layers[i]), "head_dim", config.hidden_size // config.num_attention_heads))
    nothing = x.new_zeros(x.shape[0], heads, x.shape[1], size)
    cache.update(nothing, nothing, i)


@contextmanager
def _bending(parts: Anatomy, skip: Skip, bend: Bend | None) -> Iterator[None]:
    """Inside, the output of the last layer before the first that is left out whole is what ``bend`` makes of it."""
    if bend is None:
        yield
        return
    out = [i for i in range(len(parts.layers)) if (i, "attention") in skip and (i, "mlp") in skip]
    exit_at = min(out, default=len(parts.layers)) - 1
    states: list[Tensor] = []

    def begin(layer: nn.Module, args: Any, kwargs: Any) -> None:
        states[:] = [args[0] if args else kwargs["hidden_states"]]

    def follow(last: bool) -> Any:
        def hook(layer: nn.Module, args: Any, made: Any) -> Any:
            states.append(made[0] if isinstance(made, tuple) else made)
            if not last:
                return None
            bent = bend(states)
            return (bent, *made[1:]) if isinstance(made, tuple) else bent

        return hook

    with ExitStack() as stack:
        stack.callback(parts.layers[0].register_forward_pre_hook(begin, with_kwargs=True).remove)
        for i, layer in enumerate(parts.layers[: exit_at + 1]):
            stack.callback(layer.register_forward_hook(follow(i == exit_at)).remove)
        yield


class Features:
    """What the target's head is given at every forward, (B, q, D); its hook goes with the stack.

    Attributes:
        seen: of the last forward; ``words`` the weights of the head, (V, D), or None where there is none.
    """

    def __init__(self, model: Any, stack: ExitStack) -> None:
        parts = anatomy(model)
        self.seen: Tensor | None = None
        self.words: Tensor | None = getattr(model.get_output_embeddings(), "weight", None)
        stack.callback(parts.decoder.register_forward_hook(self._keep).remove)

    def _keep(self, module: Any, args: Any, out: Any) -> None:
        self.seen = out[0] if isinstance(out, tuple) else out.last_hidden_state


class LayerLens:
    """What the target would say after each layer (see ``decode._drafter.Lens``); its hooks go with the stack."""

    def __init__(self, parts: Anatomy, stack: ExitStack) -> None:
        self.norm: Any = getattr(parts.decoder, "norm", None)
        self.head: Any = parts.model.get_output_embeddings()
        if self.norm is None or self.head is None:
            raise UnsupportedModelError(f"{parts.name} has no final norm and head that its layers could be read with")
        self.seen: dict[int, Tensor] = {}
        for i, layer in enumerate(parts.layers):
            stack.callback(layer.register_forward_hook(self._keep(i)).remove)

    def _keep(self, i: int) -> Any:
        def hook(layer: nn.Module, args: Any, out: Any) -> None:
            self.seen[i] = out[0] if isinstance(out, tuple) else out

        return hook

    def says(self, layer: int) -> Tensor:
        """(B, q, V) logits of the tokens read last."""
        out: Tensor = self.head(self.norm(self.seen[layer]))
        return out.float()


class Skimming:
    """Reads ahead at the end of the target's own cache, and takes it back (see ``decode._drafter.Skimmer``)."""

    def __init__(self, parts: Anatomy, target: Steps) -> None:
        for layer in target.cache.layers:
            if isinstance(layer, HeldLayer) and (layer.recent is not None or layer.tally is not None):
                raise UnsupportedCallError(
                    "a model cannot draft for itself while a cache policy that lasts counts every token it reads; "
                    "use a drafter that copies (prompt_lookup, token_recycling), or a policy that acts once"
                )
        self.parts, self.target = parts, target
        self._ahead: Steps | None = None

    @property
    def layers(self) -> int:
        """How many layers the target has."""
        return len(self.parts.layers)

    def read(self, tokens: Tensor, skip: Skip, bend: Bend | None = None) -> Tensor:
        """Read tokens (B, k) on; returns logits (B, k, V)."""
        if self._ahead is None:
            self._ahead = self.target.ahead()
        with leaving_out(self.parts, skip), _bending(self.parts, skip, bend):
            return self._ahead.read(tokens)

    def forget(self) -> None:
        """Unread everything since the settled text."""
        if self._ahead is not None:
            self._ahead.forget(self._ahead.length - self.target.length)
        self._ahead = None
