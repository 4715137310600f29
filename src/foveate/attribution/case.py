"""One prompt held open where it enters the LLM: its visual features, and the logits as a function of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, UnsupportedModelError
from ..load import Loaded
from ..prompt import Prompt
from ..sites.model import Anatomy, anatomy, attention_of
from ..sites.tap import undo_capture


@dataclass(frozen=True, eq=False)
class Item:
    """One image or video of the prompt.

    Attributes:
        tokens: (k,) which of the prompt's visual tokens belong to it.
        grid: (t, h, w) of them, or None when they form no grid or none is known.
    """

    tokens: Tensor
    grid: tuple[int, int, int] | None


@dataclass(frozen=True, eq=False)
class Case:
    """A prompt of batch 1, ready to be run again with other visual features.

    Attributes:
        parts: where things are in the model.
        ids: (L,) the prompt's tokens.
        where: (n,) positions of its visual tokens.
        features: (S, n, D) what enters the LLM at these positions; S is 1, or more where deeper layers are given visual
            features too.
        items: the images and videos these tokens come from.
        target: the token whose logit is explained.
    """

    parts: Anatomy
    ids: Tensor
    where: Tensor
    features: Tensor
    items: tuple[Item, ...]
    target: int
    arguments: Mapping[str, Any]

    @property
    def n(self) -> int:
        """How many visual tokens there are."""
        return self.features.shape[1]

    def logits(self, features: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """What the model would say next with other visual features. features (S, n, D), or None for its own.

        -> (V,) float32 after the whole prompt; with ``at`` (r,) positions, (r, V) after each of them.
        """
        features = self.features if features is None else features
        given = dict(self.arguments)
        given["inputs_embeds"] = given["inputs_embeds"].index_copy(1, self.where, features[:1])
        if given.get("deepstack_visual_embeds") is not None:
            given["deepstack_visual_embeds"] = list(features[1:])
        hidden = self.parts.decoder(**given)[0]
        rows = hidden[0, -1:] if at is None else hidden[0, at]
        out: Tensor = self.parts.model.get_output_embeddings()(rows).float()
        return out[0] if at is None else out

    def attend(self, see: Callable[[int, Tensor], None], features: Tensor | None = None) -> Tensor:
        """As :meth:`logits`; ``see`` is shown each layer's attention map (1, H, L, L). Only in an eager case."""
        with ExitStack() as stack:
            for i, layer in enumerate(self.parts.layers):
                hook = _showing(i, see)
                stack.callback(attention_of(layer).register_forward_hook(hook).remove)
            return self.logits(features)


@contextmanager
def opened(
    model: Any,
    inputs: Mapping[str, Any] | Prompt,
    target: int | None = None,
    eager: bool = False,
    grid: tuple[int, int, int] | None = None,
) -> Iterator[Case]:
    """Hold one prompt open; afterwards the model is exactly what it was.

    Args:
        model: a transformers model, or what :func:`foveate.load` gave.
        inputs: a prompt of batch 1, as :class:`foveate.prompt.Prompt` or as what the model's forward takes.
        target: id of the token to explain; None for the one the model says next.
        eager: run the plain attention kind, which shows its maps.
        grid: (t, h, w) of the visual tokens, if there is one image or video and ``inputs`` does not say.

    Raises:
        InputError: more than one prompt, or none with visual tokens.
        UnsupportedModelError: the model looks at no images.
    """
    bare = model.model if isinstance(model, Loaded) else model
    given = dict(inputs.inputs if isinstance(inputs, Prompt) else inputs)
    parts = anatomy(bare)
    if parts.decoder is None or not parts.visual_ids:
        raise UnsupportedModelError(f"{parts.name} takes no visual tokens, so none of them can be relevant")
    ids = given.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or len(ids) != 1:
        raise InputError("relevance is of one prompt: input_ids must be (1, n)")
    where = parts.visual(ids)[0].nonzero()[:, 0]
    if not len(where):
        raise InputError("the prompt holds no visual tokens")
    with ExitStack() as stack:
        undo_capture(bare, stack)
        _quiet(bare, stack)
        if eager:
            _eager(parts.decoder, stack)
        with torch.no_grad():
            arguments = _arguments(parts, given)
        deep = arguments.get("deepstack_visual_embeds") or []
        features = torch.cat([arguments["inputs_embeds"][:, where], *[d[None] for d in deep]])
        items = _items(inputs, where, grid)
        case = Case(parts, ids[0], where, features, items, -1 if target is None else target, arguments)
        if target is None:
            with torch.no_grad():
                case = Case(parts, ids[0], where, features, items, int(case.logits().argmax()), arguments)
        yield case


def _items(inputs: Mapping[str, Any] | Prompt, where: Tensor, grid: tuple[int, int, int] | None) -> tuple[Item, ...]:
    every = torch.arange(len(where), device=where.device)
    if not isinstance(inputs, Prompt) or not all(v.grid for v in inputs.visuals):
        if grid is not None and grid[0] * grid[1] * grid[2] != len(where):
            raise InputError(f"a grid of {grid} does not hold {len(where)} visual tokens")
        return (Item(every, grid),)
    return tuple(Item(torch.searchsorted(where, v.where.to(where.device)), v.grid) for v in inputs.visuals)


def _quiet(model: nn.Module, stack: ExitStack) -> None:
    """Evaluation mode, and no gradients to weights, until the stack closes."""
    for m in model.modules():
        stack.callback(setattr, m, "training", m.training)
    for p in model.parameters():
        stack.callback(p.requires_grad_, p.requires_grad)
    model.eval()
    model.requires_grad_(False)


def _eager(decoder: nn.Module, stack: ExitStack) -> None:
    """The plain attention kind in the LLM until the stack closes."""
    configs: dict[int, Any] = {id(m.config): m.config for m in decoder.modules() if hasattr(m, "config")}
    for config in configs.values():
        stack.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation_internal)
        config._attn_implementation_internal = "eager"


class Enough(Exception):  # noqa: N818  (a signal, not an error)
    """Ends a run once what it was for is known."""


def _arguments(parts: Anatomy, given: dict[str, Any]) -> dict[str, Any]:
    """What the decoder is called with for this prompt, without a cache."""
    caught: dict[str, Any] = {}

    def catch(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        caught.update(kwargs)
        raise Enough

    hook = parts.decoder.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        parts.model(**given | {"use_cache": False})
    except Enough:
        pass
    finally:
        hook.remove()
    if caught.get("inputs_embeds") is None:
        raise UnsupportedModelError(f"{parts.name} does not hand embeddings to its LLM")
    return caught | {"use_cache": False, "past_key_values": None}


def _showing(index: int, see: Callable[[int, Tensor], None]) -> Callable[[Any, Any, Any], None]:
    def hook(module: Any, args: Any, out: Any) -> None:
        see(index, out[1])

    return hook
