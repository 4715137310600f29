"""The second model of a decode method: found, checked against the target, and set to read the same prompt."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from ..decode._drafter import second_model
from ..errors import InputError, PlanError, UnsupportedModelError
from .steps import Steps, check_rewinds

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


def reading(model: Any, given: dict[str, Any], config: Any, images: bool) -> Steps:
    """A second model that has read the prompt of a call of another's ``generate``.

    Args:
        given: the arguments of that call.
        config: that call's resolved generation config.
        images: hand over pixels and grids too, not only the text.
    """
    ids = given["inputs"] if given.get("inputs") is not None else given.get("input_ids")
    if ids is None or ids.is_floating_point() or ids.shape[1] == 0:
        raise InputError("a draft model reads tokens; call generate with input_ids, not with inputs_embeds alone")
    takes = set(inspect.signature(model.forward).parameters) - _OWN if images else set()
    to = {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in given.items() if k in takes}
    if (mask := given.get("attention_mask")) is not None:
        to["attention_mask"] = mask[:, -ids.shape[1] :].to(model.device)
    more = {"do_sample": bool(config.do_sample), "num_return_sequences": config.num_return_sequences, "num_beams": 1}
    # the class's generate: the instance's may be ours, when a model drafts for itself
    steps: Steps = type(model).generate(
        model, ids.to(model.device), **to, **more, max_new_tokens=1, use_cache=True, custom_generate=_collect
    )
    steps.prefill()
    check_rewinds(model, steps.cache)
    steps.cache.activate_past_recording()
    return steps


def _collect(model: Any, input_ids: Tensor, generation_config: Any, **kwargs: Any) -> Steps:
    """A decoding loop that decodes nothing: it hands back the run that generate prepared."""
    for name in ("logits_processor", "stopping_criteria"):
        kwargs.pop(name, None)
    return Steps(model, input_ids, generation_config, kwargs)
