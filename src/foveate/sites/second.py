"""The second model of a decode method: found, checked against the target, and set to read the same prompt."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from ..decode._drafter import ITSELF, Reader, second_model
from ..errors import InputError, PlanError, UnsupportedCallError, UnsupportedModelError
from ..parts.trees import Tree
from .branches import Branches
from .steps import Steps, check_rewinds

#: (model, plan) -> the block in which a model runs with a plan; sites do not know who makes it.
Under = Callable[[Any, Any], AbstractContextManager[Any]]
#: arguments of forward that belong to one model's run and are never handed from one model to another.
_OWN = {"input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "use_cache", "labels"}


def find(model: Any, method: Any) -> Any:
    """The second model that the method asks for, loaded beside the target; None if it asks for none.

    Raises:
        PlanError: when it cannot be loaded.
        UnsupportedModelError: when it does not speak the target's vocabulary.
    """
    asked = second_model(method)
    if asked is None:
        return None
    if asked is ITSELF:
        return model
    second = _load(asked, model, method.name) if isinstance(asked, str) else asked
    if not hasattr(second, "prepare_inputs_for_generation") or second.config.is_encoder_decoder:
        raise UnsupportedModelError(f"{method.name} drafts with a decoder-only model. Got {type(second).__name__}.")
    ours, theirs = _vocabulary(model), _vocabulary(second)
    if ours != theirs:
        raise UnsupportedModelError(
            f"the draft model of {method.name} must have the vocabulary of the target: {type(second).__name__} has "
            f"{theirs:,} tokens, {type(model).__name__} {ours:,}. Give a draft model of the same family."
        )
    return second


def _vocabulary(model: Any) -> int:
    return int(model.config.get_text_config(decoder=True).vocab_size)


def _load(path: str, model: Any, name: str) -> Any:
    try:
        config = AutoConfig.from_pretrained(path)
        kind = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText
        loaded = kind.from_pretrained(path, config=config, dtype=model.dtype)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise PlanError(f"{name} could not load its draft model {path!r}: {why}") from error
    return loaded.to(model.device).eval()


def reading(
    model: Any,
    second: Any,
    method: Any,
    given: dict[str, Any],
    config: Any,
    images: bool,
    stack: contextlib.ExitStack,
    under: Under | None = None,
) -> Reader:
    """A second model that has read the prompt of a call of another's ``generate``, or what its method leaves of it.

    Args:
        model: the target.
        given: the arguments of that call.
        config: that call's resolved generation config.
        images: hand over pixels and grids too, not only the text.
        stack: open until the call ends.
        under: places the plan that a method has for its second model.
    """
    ids = given["inputs"] if given.get("inputs") is not None else given.get("input_ids")
    if ids is None or ids.is_floating_point() or ids.shape[1] == 0:
        raise InputError("a draft model reads tokens; call generate with input_ids, not with inputs_embeds alone")
    takes = set(inspect.signature(second.forward).parameters) - _OWN if images else set()
    to = {k: v.to(second.device) if isinstance(v, Tensor) else v for k, v in given.items() if k in takes}
    mask = given.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask[:, -ids.shape[1] :]
    full, shorter = ids.shape[1], getattr(method, "draft_prompt", None)
    if shorter is not None:
        if any(k in to for k in ("pixel_values", "pixel_values_videos")):
            raise UnsupportedCallError(
                f"{method.name} shortens a prompt of text for its draft model, and this one has images; "
                "use vispec or flash_sd, whose draft model sees fewer visual tokens"
            )
        keep = shorter(ids, mask > 0, model.get_input_embeddings()) & (mask > 0)
        keep[:, -1] = True
        ids, mask = _shortened(ids, keep)
    plan = getattr(method, "draft_plan", lambda: None)()
    if plan is not None:
        if second is model:
            raise PlanError(
                f"{method.name} shows its draft model fewer tokens; give it a model of its own, not the target"
            )
        if under is None:
            raise PlanError(f"{method.name} shortens what its draft model sees: place it with foveate.apply")
        stack.enter_context(under(second, plan))
    more = {"do_sample": bool(config.do_sample), "num_return_sequences": config.num_return_sequences, "num_beams": 1}
    # the class's generate: the instance's may be ours, when a model drafts for itself
    steps: Steps = type(second).generate(
        second,
        ids.to(second.device),
        attention_mask=mask.to(second.device),
        **{k: v for k, v in to.items() if k != "attention_mask"},
        **more,
        max_new_tokens=1,
        use_cache=True,
        custom_generate=_collect,
    )
    steps.prefill()
    check_rewinds(second, steps.cache)
    steps.cache.activate_past_recording()
    steps.branches = Branches.place(second, stack) if getattr(method, "trees", False) else None
    return Shifted(steps, full - ids.shape[1]) if shorter is not None else steps


def _shortened(ids: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of ids (B, n) where keep is True, padded on the left, and their mask (B, m) int64."""
    m = int(keep.sum(1).max())
    order = keep.to(torch.uint8).argsort(dim=1, stable=True)[:, keep.shape[1] - m :]
    return ids.gather(1, order), keep.gather(1, order).long()


class Shifted:
    """A reader of a shorter prompt, which counts tokens as the target does (see ``decode._drafter.Reader``)."""

    def __init__(self, steps: Steps, less: int) -> None:
        self.steps, self.less = steps, less

    @property
    def length(self) -> int:
        """Tokens of the target's text up to where it has read."""
        return self.steps.length + self.less

    def read(self, tokens: Tensor) -> Tensor:
        """Read tokens (B, k) on; returns logits (B, k, V)."""
        return self.steps.read(tokens)

    def look(self, tokens: Tensor, tree: Tree) -> Tensor | None:
        """Read the nodes of a tree and unread them."""
        return self.steps.look(tokens, tree)

    def forget(self, k: int) -> None:
        """Unread the last k tokens."""
        self.steps.forget(k)


def _collect(model: Any, input_ids: Tensor, generation_config: Any, **kwargs: Any) -> Steps:
    """A decoding loop that decodes nothing: it hands back the run that generate prepared."""
    for name in ("logits_processor", "stopping_criteria"):
        kwargs.pop(name, None)
    return Steps(model, input_ids, generation_config, kwargs)
