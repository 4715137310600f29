"""Models of the size and shape that users run, with random weights: what is timed does not depend on the weights.

The vision towers have two blocks only. A full tower costs the same with and without a plan, so a small one makes the
judgement of the selection stricter, not milder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: The decoder of Qwen2/2.5 0.5 B: 24 layers of width 896, 14 query heads, 2 KV heads.
TEXT: dict[str, Any] = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "eos_token_id": None,
}
IMAGE, VIDEO, START, END = 151655, 151656, 151652, 151653
PROMPT = 24  # text tokens before and after the video together


@dataclass(frozen=True)
class Case:
    """A model and how to make a prompt with about n visual tokens for it."""

    model: Any
    inputs: Callable[[int], dict[str, Tensor]]
    video_features: Callable[[dict[str, Tensor]], Tensor]

    def oracle_inputs(self, inputs: dict[str, Tensor], features: Tensor) -> Tensor:
        """Embeddings of the same prompt around these (m, D) features: (1, PROMPT + m, D)."""
        ids = inputs["input_ids"][0]
        at = (ids == VIDEO).nonzero()[:, 0]
        embed = self.model.get_input_embeddings()
        before, after = embed(ids[: at[0]]), embed(ids[at[-1] + 1 :])
        return torch.cat([before, features, after])[None]


def _prompt(n: int) -> Tensor:
    text = torch.arange(1000, 1000 + PROMPT)
    return torch.cat([text[:8], torch.full((n,), VIDEO), text[8:]])[None]


def qwen2_5_vl(dtype: torch.dtype, small: bool = False) -> Case:
    """Qwen2.5-VL with the 0.5 B decoder; a video of 256 tokens a frame pair."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6}}
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 1280,
        "num_heads": 16,
        "intermediate_size": 3420,
        "patch_size": 14,
    }
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [1]}
    if small:
        text |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2}
        text["rope_parameters"]["mrope_section"] = [4, 6, 6]
        vision |= {"hidden_size": 64, "num_heads": 2, "intermediate_size": 128}
    vision["out_hidden_size"] = text["hidden_size"]
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO)
    config.vision_start_token_id, config.vision_end_token_id = START, END
    model = made(Qwen2_5_VLForConditionalGeneration, config, dtype)

    def inputs(n: int) -> dict[str, Tensor]:
        frames = max(1, n // 256)
        ids = _prompt(frames * 256)
        g = torch.Generator().manual_seed(n)
        pixels = torch.randn(frames * 1024, 3 * 2 * 14 * 14, generator=g).to(dtype)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values_videos": pixels,
            "video_grid_thw": torch.tensor([[frames, 32, 32]]),
            "mm_token_type_ids": (ids == VIDEO).int() * 2,
        }

    def features(given: dict[str, Tensor]) -> Tensor:
        out = model.model.get_video_features(given["pixel_values_videos"], given["video_grid_thw"], return_dict=True)
        return torch.cat(list(out.pooler_output))

    return Case(model, inputs, features)


def llava_onevision(dtype: torch.dtype, small: bool = False) -> Case:
    """LLaVA-OneVision with the 0.5 B decoder; a video of 196 tokens a frame."""
    from transformers import LlavaOnevisionForConditionalGeneration

    text = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 2, "num_attention_heads": 16}
    if small:
        text |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2}
        vision |= {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    model = made(LlavaOnevisionForConditionalGeneration, onevision(text, vision), dtype)

    def inputs(n: int) -> dict[str, Tensor]:
        frames = max(1, round(n / 196))
        ids = _prompt(frames * 196 + 1)
        g = torch.Generator().manual_seed(n)
        pixels = torch.randn(1, frames, 3, 384, 384, generator=g).to(dtype)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}

    def features(given: dict[str, Tensor]) -> Tensor:
        out = model.model.get_video_features(
            given["pixel_values_videos"],
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            return_dict=True,
        )
        pooled: Tensor = out.pooler_output[0]
        return pooled

    return Case(model, inputs, features)


def qwen2(dtype: torch.dtype, small: bool = False) -> Any:
    """The text decoder alone, as a model that speaks."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    text = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    if small:
        text |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        text |= {"vocab_size": 500}
    return made(Qwen2ForCausalLM, Qwen2Config(**text), dtype)


def onevision(text: dict[str, Any], tower: dict[str, Any]) -> Any:
    """The configuration of a LLaVA-OneVision of this decoder and this SigLIP tower, at 384 pixels."""
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**tower, image_size=384, patch_size=14, vision_use_head=False),
        text_config=Qwen2Config(**text),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    config.image_token_id, config.video_token_id = IMAGE, VIDEO
    return config


def made(cls: Any, config: Any, dtype: torch.dtype, device: torch.device | None = None) -> Any:
    """The model with random weights, made where it will run: nothing of it lies in main memory on the way to a GPU."""
    place = torch.device("cpu") if device is None else device
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), place:
            torch.manual_seed(0)
            return cls(config).eval()
    finally:
        torch.set_default_dtype(before)


SHAPES = {"qwen2_5_vl": qwen2_5_vl, "llava_onevision": llava_onevision}
