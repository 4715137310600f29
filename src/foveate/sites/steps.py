"""A Hugging Face model in the middle of generating: what it has read, and the means to read on and to step back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.utils import ModelOutput

from ..errors import InputError, UnsupportedCallError


class Steps:
    """One run of generate, from the arguments that ``generate`` hands to its decoding loop.

    Masks, positions and token types are continued by the model's own rules, so rotary positions of every kind
    (one-dimensional, or the three of Qwen-VL) come out as in its own loop.

    Attributes:
        ids: (B, n) what was read, prompt included; n may be shorter than the cache if the call continues a cache.
    """

    def __init__(self, model: Any, ids: Tensor, config: Any, kwargs: dict[str, Any]) -> None:
        self.model, self.ids, self._config = model, ids, config
        self._kwargs = kwargs
        self._base, self._base_length = kwargs, ids.shape[1]  # a state that forget can start from

    @property
    def length(self) -> int:
        """Tokens read, the prompt's included."""
        return self.ids.shape[1]

    @property
    def cache(self) -> Any:
        """The key-value cache of the run."""
        return self._kwargs["past_key_values"]

    def prefill(self) -> Tensor:
        """Read the prompt; returns the logits after it, (B, V) float32."""
        out = self.model._prefill(self.ids, self._config, self._kwargs, is_first_iteration=True)
        logits: Tensor = out.logits[:, -1]
        return logits.to(self.ids.device, torch.float32, copy=True)  # a copy, as the prompt's logits may be large

    def read(self, tokens: Tensor) -> Tensor:
        """Read tokens (B, k) on; returns logits (B, k, V) after each of them, float32, where the tokens are."""
        k, new = tokens.shape[1], tokens.to(self.ids.device)
        if k < 1:
            raise InputError("there is nothing to read; a drafter reads at least one token before it goes on")
        if (since := self.length - self._base_length) and self._whole_drafts:
            new = torch.cat([self.ids[:, -since:], new], 1)
            self.forget(since)
        self.ids = torch.cat([self.ids, new], 1)
        self._kwargs = self._extend(self._kwargs, new.shape[1])
        inputs = self.model.prepare_inputs_for_generation(self.ids, next_sequence_length=new.shape[1], **self._kwargs)
        if "logits_to_keep" in inputs:
            inputs["logits_to_keep"] = k
        logits: Tensor = self.model(**inputs, return_dict=True).logits[:, -k:]
        return logits.to(tokens.device, torch.float32)

    def forget(self, k: int) -> None:
        """Unread the last k >= 0 tokens (never more than since the last call). Layers that record more than they need
        to (sliding windows) drop it here, so it is called after every check of a draft, with 0 too."""
        self.cache.crop(-k)
        if k > 0:
            self.ids = self.ids[:, :-k]
            self._kwargs = self._extend(self._base, self.length - self._base_length)
        self._base, self._base_length = self._kwargs, self.length

    @property
    def _whole_drafts(self) -> bool:
        """Whether tokens read since the last ``forget`` have to be read again together with new ones: in older
        releases of transformers, sliding windows that record their past fit no mask at a second read."""
        return any(getattr(x, "record_past", False) and getattr(x, "is_sliding", False) for x in self.cache.layers)

    @contextmanager
    def rewinding(self) -> Iterator[None]:
        """Inside, layers of bounded length keep what ``forget`` may need; to be entered after the prefill."""
        switched = [layer for layer in self.cache.layers if getattr(layer, "record_past", None) is False]
        for layer in switched:
            layer.activate_past_recording()
        try:
            yield
        finally:
            for layer in switched:
                layer.record_past = False

    def _extend(self, kwargs: dict[str, Any], k: int) -> dict[str, Any]:
        """The arguments for k more tokens, by the model's own rule (one at a time where that rule knows only one)."""
        kwargs, update = dict(kwargs), self.model._update_model_kwargs_for_generation
        plain = update.__func__ is GenerationMixin._update_model_kwargs_for_generation
        if k and plain and kwargs.get("token_type_ids") is None:
            return dict(update(ModelOutput(), kwargs, num_new_tokens=k))
        for _ in range(k):
            kwargs = update(ModelOutput(), kwargs)
        return kwargs


def check_rewinds(model: Any, cache: Any) -> None:
    """Refuse a cache, after its prefill, that cannot be stepped back.

    Linear attention folds tokens into one state, and a sliding window forgets tokens unless it can be told not to.
    """
    for layer in cache.layers:
        able = getattr(layer, "is_croppable", not hasattr(layer, "recurrent_states"))
        if getattr(layer, "is_sliding", False) and not hasattr(layer, "activate_past_recording"):
            able = False
        if not able:
            raise UnsupportedCallError(
                f"drafts cannot be taken back in {type(model).__name__} here: a cache layer ({type(layer).__name__}) "
                "cannot step back. Leave the decode method out of the plan for this model, or the methods of other "
                "stages if the layer has a sliding window."
            )
