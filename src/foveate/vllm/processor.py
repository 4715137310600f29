"""The part of a vLLM media processor that foveate adds: how many placeholders an item gets, and its cache key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vllm.multimodal.hasher import MultiModalHasher
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import PromptReplacement

from ..errors import InputError
from . import settings
from .item import Item

#: Name of the field that carries an item (see :mod:`foveate.vllm.item`) beside the pixels, by modality.
FIELD = {"image": "foveate_image", "video": "foveate_video"}
#: Items whose advance is remembered, for those that vLLM does not hand over again.
REMEMBERED = 1 << 16


class PrunedProcessor:
    """Goes before a model's own processor class. Without a plan everything is left to that class."""

    info: Any
    _known: OrderedDict[str, int]

    # --- of each family ---------------------------------------------------------------------------------------------

    def pads(self) -> dict[str, int]:
        """The id that stands for a visual token, by modality."""
        raise NotImplementedError

    def items(self, plan: str, words: Sequence[int], data: Mapping[str, Any]) -> dict[str, list[Item]]:
        """The items that data, as the Hugging Face processor gave them, hold, by modality."""
        raise NotImplementedError

    # --- of all -----------------------------------------------------------------------------------------------------

    @property
    def plan(self) -> str | None:
        """The engine's plan."""
        found: str | None = getattr(self.info.get_hf_config(), settings.PLAN, None)
        return found

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """As vLLM's; the plan and a request's keep are made one entry of the options first."""
        options = inputs.hf_processor_mm_kwargs
        options = settings.request(self.plan, options, inputs.prompt, list(self.pads().values()))
        out = super().apply(replace(inputs, hf_processor_mm_kwargs=options), timing_ctx)  # type: ignore[misc]
        if self.plan is not None:
            self._check_reach(out)
        return out

    def _get_mm_hashes(self, inputs: Any) -> Any:
        options = inputs.hf_processor_mm_kwargs
        rest, own = settings.resolved(options)
        hashes = super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=rest))  # type: ignore[misc]
        if own is None:
            return hashes
        algorithm = self.info.ctx.get_mm_config().mm_hasher_algorithm
        return {
            modality: [
                MultiModalHasher.hash_kwargs(algorithm, mm_hash=each, foveate=options[settings.KEY]) for each in all_of
            ]
            for modality, all_of in hashes.items()
        }

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        rest, own = settings.resolved(hf_kwargs)
        data = super()._apply_hf_processor_main(mm_items, rest)  # type: ignore[misc]
        if own is not None:
            for modality, found in self.items(*own, data).items():
                data[FIELD[modality]] = [item.to_tensor() for item in found]
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        rest, own = settings.resolved(hf_processor_mm_kwargs)
        fields = dict(super()._get_mm_fields_config(hf_inputs, rest))  # type: ignore[misc]
        if own is not None:
            fields |= {name: MultiModalFieldConfig.batched(m, keep_on_cpu=True) for m, name in FIELD.items()}
        return fields

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any) -> Any:
        rest, own = settings.resolved(hf_processor_mm_kwargs)
        if own is None:
            return super()._get_prompt_updates(mm_items, rest, out_mm_kwargs)  # type: ignore[misc]

        def written(modality: str, pad: int) -> Any:
            return lambda i: Item.from_tensor(out_mm_kwargs[modality][i][FIELD[modality]].data).ids(pad)

        return [
            PromptReplacement(modality=modality, target=[pad], replacement=written(modality, pad))
            for modality, pad in self.pads().items()
        ]

    def _check_reach(self, made: Any) -> None:
        """Refuse a prompt whose kept tokens would stand further on than the model's table of positions goes.

        Raises:
            InputError: it is too long, shortened as it is.
        """
        known = self.__dict__.setdefault("_known", OrderedDict())
        total = len(made["prompt_token_ids"])
        for modality, hashes in made["mm_hashes"].items():
            for key, kwargs in zip(hashes, made["mm_kwargs"][modality]):
                if kwargs is not None:
                    item = Item.from_tensor(kwargs[FIELD[modality]].data)
                    known[key] = max(item.layout.reach, item.layout.advance) - item.length
                total += known.get(key, 0)
        while len(known) > REMEMBERED:
            known.popitem(last=False)
        room = 4 * int(self.info.get_hf_config().get_text_config().max_position_embeddings)  # as long as vLLM's table
        if total > room:
            raise InputError(
                f"the full prompt would take up {total} positions, and this model has {room}: shortened tokens keep "
                "their places, so send fewer frames or smaller pictures"
            )
