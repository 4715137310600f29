"""Qwen3-VL in vLLM, with a plan: DeepStack features go the way of the tokens, timestamps between frames stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..errors import InputError
from . import layout
from .item import Item
from .model import PrunedModel
from .processor import PrunedProcessor


class Processor(PrunedProcessor, Qwen3VLMultiModalProcessor):
    """Counts the placeholders of images and videos."""

    def pads(self) -> dict[str, int]:
        """Ids of ``<|image_pad|>`` and ``<|video_pad|>``."""
        config = self.info.get_hf_config()
        return {"image": config.image_token_id, "video": config.video_token_id}

    def items(self, plan: str, words: Sequence[int], data: Mapping[str, Any]) -> dict[str, list[Item]]:
        """One item for each row of the grids; a video's holds the words between its frames.

        Raises:
            InputError: embeddings of a video came without timestamps.
        """
        merge = self.info.get_hf_config().vision_config.spatial_merge_size
        out = {}
        if (grids := data.get("image_grid_thw")) is not None:
            out["image"] = [Item.of(plan, layout.patches(g, merge), words) for g in grids.tolist()]
        if (grids := data.get("video_grid_thw")) is not None:
            if "timestamps" not in data:
                raise InputError("embeddings of a video came without timestamps; send the video itself")
            texts = [self._texts([float(s) for s in stamps]) for stamps in data["timestamps"]]
            out["video"] = [
                Item.of(plan, layout.stamped(g, merge, [len(t) for t in text[:-1]], len(text[-1])), words, text)
                for g, text in zip(grids.tolist(), texts, strict=True)
            ]
        return out

    def _texts(self, stamps: Sequence[float]) -> list[list[int]]:
        """Ids before each frame, then those behind each."""
        config, tokenizer = self.info.get_hf_config(), self.info.get_tokenizer()
        out = []
        for stamp in stamps:
            whole = self.get_video_repl(
                tokens_per_frame=[0],
                timestamps=[stamp],
                tokenizer=tokenizer,
                vision_start_token_id=config.vision_start_token_id,
                vision_end_token_id=config.vision_end_token_id,
                video_token_id=config.video_token_id,
            ).full
            out.append(list(whole[:-1]))
        return [*out, [config.vision_end_token_id]]


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Qwen3VLProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder)
class Model(PrunedModel, Qwen3VLForConditionalGeneration):
    """The model that takes the place of vLLM's."""
