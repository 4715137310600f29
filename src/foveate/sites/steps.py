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
from ..parts.trees import Tree
from .branches import Branches, bring_forward, obstacle


class Steps:
    """One run of generate, from the arguments that ``generate`` hands to its decoding loop.

    Masks, positions and token types are continued by the model's own rules, so rotary positions of every kind
    (one-dimensional, or the three of Qwen-VL) come out as in its own loop.

    Attributes:
        ids: (B, n) what was read, prompt included; n may be shorter than the cache if the call continues a cache.
    """

    def __init__(
        self, model: Any, ids: Tensor, config: Any, kwargs: dict[str, Any], branches: Branches | None = None
    ) -> None:
        self.model, self.ids, self._config = model, ids, config
        self._kwargs, self.branches = kwargs, branches
        self._base, self._base_length = kwargs, ids.shape[1]  # a state that forget can start from

    @property
    def length(self) -> int:
        """Tokens read, the prompt's included."""
        return self.ids.shape[1]

    @property
    def cache(self) -> Any:
        """The key-value cache of the run."""
        return self._kwargs["past_key_values"]

    @property
    def positions(self) -> Tensor | None:
        """Positions of what was read, (..., n), if the model is told them."""
        found: Tensor | None = self._kwargs.get("position_ids")
        return found

    def ahead(self) -> Steps:
        """A run that goes on from here on the same cache, and has to be taken back before this one goes on."""
        return Steps(self.model, self.ids, self._config, self._kwargs)

    def prefill(self) -> Tensor:
        """Read the prompt; returns the logits after it, (B, V) float32."""
        out = self.model._prefill(self.ids, self._config, self._kwargs, is_first_iteration=True)
        logits: Tensor = out.logits[:, -1]
        return logits.to(self.ids.device, torch.float32, copy=True)  # a copy, as the prompt's logits may be large

    def read(self, tokens: Tensor, tree: Tree | None = None, soft: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Read tokens (B, k) on; returns logits (B, k, V) after each of them, float32, where the tokens are.

        With a tree they are its nodes; before anything else is read, :meth:`follow` says which of them stay. ``soft``:
        (k,) rows of (P, D) learned embeddings to be read in place of tokens, -1 where tokens are.
        """
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
        if tree is None:
            logits: Tensor = self.model(**inputs, return_dict=True).logits[:, -k:]
            return logits.to(tokens.device, torch.float32)
        assert self.branches is not None, "trees need a model whose masks can be set"
        at = inputs["position_ids"]
        inputs["position_ids"] = at[..., :1] + tree.depth.to(at)  # siblings stand at the same place
        with self.branches.reading(tree, self.cache, self._kwargs.get("attention_mask")), self._replacing(soft):
            logits = self.model(**inputs, return_dict=True).logits[:, -k:]
        return logits.to(tokens.device, torch.float32)

    @contextmanager
    def _replacing(self, soft: tuple[Tensor, Tensor] | None) -> Iterator[None]:
        """Inside, some of the tokens read are embedded otherwise."""
        if soft is None:
            yield
            return
        which, rows = soft

        def embedded(module: Any, args: Any, out: Tensor) -> Tensor | None:
            if out.shape[1] != len(which):
                return None
            given = rows.to(out)[which.clamp(min=0).to(rows.device)].to(out.device)
            return torch.where(which.to(out.device)[None, :, None] >= 0, given, out)

        hook = self.model.get_input_embeddings().register_forward_hook(embedded)
        try:
            yield
        finally:
            hook.remove()

    def follow(self, path: Tensor, nodes: int) -> None:
        """Of a tree of so many nodes that was just read, keep those of path (B, k), in order; unread the others."""
        k = path.shape[1]
        if nodes > k or not bool((path == torch.arange(k, device=path.device)).all()):
            bring_forward(self.cache, path, nodes)
            kept = self.ids[:, -nodes:].gather(1, path.to(self.ids.device))
            self.ids = torch.cat([self.ids[:, :-nodes], kept, self.ids[:, -nodes:][:, : nodes - k]], 1)
        self.forget(nodes - k)

    def look(self, tokens: Tensor, tree: Tree) -> Tensor | None:
        """As :meth:`read`, of the nodes of a tree (B, q), all of them unread again; None where trees cannot be read."""
        if obstacle(self.branches, self.cache, self.positions) is not None:
            return None
        if self.length - self._base_length:
            self.forget(0)
        logits = self.read(tokens, tree)
        self.forget(tree.q)
        return logits

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
