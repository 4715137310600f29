"""The part of a vLLM model class that foveate adds: shorten what the encoder gave, and say where the rest stands."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import columns, positions, settings
from .item import Item
from .processor import FIELD

logger = logging.getLogger("vllm.foveate")


class PrunedModel:
    """Goes before a model class of vLLM. Without a plan everything is left to that class."""

    supports_multimodal_pruning: ClassVar[bool] = True
    supports_mrope: ClassVar[bool] = True
    supported_video_pruning_methods: ClassVar[tuple[str, ...]] = ("evs",)  # what vLLM's own check asks for

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        config = vllm_config.model_config.hf_config
        self.foveate = getattr(config, settings.PLAN, None) is not None
        self.foveate_width = int(config.get_text_config().hidden_size)
        # the second model runner keeps positions in rows of fixed length, and hands over those of the prompt alone
        self.foveate_table = not vllm_config.use_v2_model_runner

    # --- after the encoder ------------------------------------------------------------------------------------------

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """As the model's own, with each item shortened and its positions behind its rows."""
        told = {m: kwargs.pop(name, None) for m, name in FIELD.items()}
        features = super().embed_multimodal(**kwargs)  # type: ignore[misc]
        if not self.foveate:
            return features
        items = [Item.from_tensor(data) for m in _modalities(kwargs) for data in told[m]]
        return tuple(self._shorten(item, each.flatten(0, -2)) for item, each in zip(items, features, strict=True))

    def _shorten(self, item: Item, features: Tensor) -> Tensor:
        asked, words = (self._embedded(ids, features) for ids in (item.asked, item.words()))
        rows, forced = item.reduce(features, self.foveate_width, asked, words)
        if forced:
            logger.warning("%s kept another number of tokens than its rule says; its choice was made to fit", item.plan)
        return rows

    def _embedded(self, ids: Sequence[int], like: Tensor) -> Tensor | None:
        if not ids:
            return None
        found: Tensor = self.get_language_model().embed_input_ids(torch.tensor(ids, device=like.device))  # type: ignore[attr-defined]
        return found

    def _postprocess_image_embeds_evs(self, embeds: Any, inputs: Any) -> Any:
        if self.foveate:  # vLLM's own pruning is switched on with ours, and does nothing
            return embeds
        return super()._postprocess_image_embeds_evs(embeds, inputs)  # type: ignore[misc]

    def _postprocess_video_embeds_evs(self, embeds: Any, inputs: Any) -> Any:
        if self.foveate:
            return embeds
        return super()._postprocess_video_embeds_evs(embeds, inputs)  # type: ignore[misc]

    # --- positions --------------------------------------------------------------------------------------------------

    def get_mrope_input_positions(self, input_tokens: Any, mm_features: Any) -> tuple[Tensor, int]:
        """Positions of a prompt before its media are encoded; see :func:`foveate.vllm.positions.ahead`."""
        if not self.foveate:
            own: tuple[Tensor, int] = super().get_mrope_input_positions(input_tokens, mm_features)  # type: ignore[misc]
            return own
        spans = [
            positions.Span(f.mm_position.offset, f.mm_position.length, _item(f).layout)
            for f in mm_features
            if f.modality in FIELD
        ]
        return positions.ahead(len(input_tokens), spans, self.foveate_table)

    def recompute_mrope_positions(
        self, input_ids: Any, multimodal_embeddings: Sequence[Tensor], mrope_positions: Tensor, num_computed_tokens: int
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        """Take the positions off the rows of a piece of the prompt, and put them in."""
        if not self.foveate:
            own: tuple[Sequence[Tensor], Tensor, int] = super().recompute_mrope_positions(  # type: ignore[misc]
                input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens
            )
            return own
        rows = [columns.read(each[:, -columns.WIDTH :]) for each in multimodal_embeddings]
        placed, delta = positions.fill(mrope_positions, len(input_ids), rows, num_computed_tokens)
        return [each[:, : -columns.WIDTH] for each in multimodal_embeddings], placed, delta


def _item(feature: Any) -> Item:
    return Item.from_tensor(feature.data[FIELD[feature.modality]].data)


def _modalities(kwargs: Mapping[str, Any]) -> list[str]:
    """Those that a model encodes for these arguments, in the order in which it does."""
    of = {"pixel_values": "image", "image_embeds": "image", "pixel_values_videos": "video", "video_embeds": "video"}
    return list(dict.fromkeys(of[k] for k in kwargs if k in of))
