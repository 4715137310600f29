"""Qwen2.5-VL in vLLM, with a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from . import layout
from .item import Item
from .model import PrunedModel
from .processor import PrunedProcessor


class Processor(PrunedProcessor, Qwen2_5_VLMultiModalProcessor):
    """Counts the placeholders of images and videos."""

    def pads(self) -> dict[str, int]:
        """Ids of ``<|image_pad|>`` and ``<|video_pad|>``."""
        config = self.info.get_hf_config()
        return {"image": config.image_token_id, "video": config.video_token_id}

    def items(self, plan: str, words: Sequence[int], data: Mapping[str, Any]) -> dict[str, list[Item]]:
        """One item for each row of the grids; frames of a video lie apart in time as the processor tells."""
        vision = self.info.get_hf_config().vision_config
        merge, rate = vision.spatial_merge_size, getattr(vision, "tokens_per_second", 1)
        out = {}
        if (grids := data.get("image_grid_thw")) is not None:
            made = [layout.patches(g, merge) for g in grids.tolist()]
            out["image"] = [Item.of(plan, each, words) for each in made]
        if (grids := data.get("video_grid_thw")) is not None:
            seconds = data.get("second_per_grid_ts")
            told = [1.0] * len(grids) if seconds is None else [float(s) for s in seconds]
            made = [layout.patches(g, merge, layout.pace(s, rate)) for g, s in zip(grids.tolist(), told, strict=True)]
            out["video"] = [Item.of(plan, each, words) for each in made]
        return out


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class Model(PrunedModel, Qwen2_5_VLForConditionalGeneration):
    """The model that takes the place of vLLM's."""
