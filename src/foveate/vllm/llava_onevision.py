"""LLaVA-OneVision in vLLM, with a plan: tokens that end a line are never dropped, nor seen by the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.image_processing_utils import select_best_resolution
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..errors import InputError
from . import layout
from .item import Item
from .model import PrunedModel
from .processor import PrunedProcessor


class Processor(PrunedProcessor, LlavaOnevisionMultiModalProcessor):
    """Counts the placeholders of images and videos."""

    def pads(self) -> dict[str, int]:
        """Ids of ``<image>`` and ``<video>``."""
        config = self.info.get_hf_config()
        return {"image": config.image_token_index, "video": config.video_token_index}

    def items(self, plan: str, words: Sequence[int], data: Mapping[str, Any]) -> dict[str, list[Item]]:
        """One item for each image size, and for each video's frames.

        Raises:
            InputError: embeddings came in the place of an image; their shape does not tell where lines end.
        """
        config = self.info.get_hf_config()
        tile = config.vision_config.image_size
        side = tile // config.vision_config.patch_size
        out = {}
        if data.get("image_embeds") is not None:
            raise InputError("embeddings of an image do not tell its size, so no plan can run; send the image itself")
        if (pixels := data.get("pixel_values")) is not None:
            made = []
            for size, crops in zip(data["image_sizes"], pixels, strict=True):
                h, w = (int(v) for v in size)
                best = select_best_resolution((h, w), [list(p) for p in config.image_grid_pinpoints])
                made.append(layout.stitched((h, w), best, tile, side, len(crops)))
            out["image"] = [Item.of(plan, each, words) for each in made]
        if (videos := data.get("pixel_values_videos")) is not None:
            out["video"] = [Item.of(plan, layout.filmed(len(frames), side), words) for frames in videos]
        return out


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=LlavaOnevisionProcessingInfo, dummy_inputs=LlavaOnevisionDummyInputsBuilder
)
class Model(PrunedModel, LlavaOnevisionForConditionalGeneration):
    """The model that takes the place of vLLM's."""
