"""Models of the size that people run, built on the device from their configurations, with random weights in bfloat16.

What is timed does not depend on the weights. Unlike :mod:`.shapes`, towers have their full depth, and prompts several
rows. A video's frames have 256 visual tokens in Qwen's families (two frames together) and 196 in LLaVA-OneVision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .shapes import END, IMAGE, PROMPT, START, VIDEO, made, onevision

FRAME = 256  # visual tokens that two frames become in Qwen's families: 32 x 32 patches


@dataclass(frozen=True)
class Sized:
    """A model and how to ask it about videos.

    Attributes:
        inputs: (visual tokens, rows) -> inputs of generate; as many tokens as whole frames come close to.
        features: those inputs -> (rows, n, D), what the vision tower makes of them.
    """

    model: Any
    inputs: Callable[[int, int], dict[str, Tensor]]
    features: Callable[[dict[str, Tensor]], Tensor]

    def kept_only(self, inputs: dict[str, Tensor], m: int) -> Tensor:
        """(rows, text + m, D) embeddings of the same prompt with its first m visual tokens alone: the oracle's."""
        ids = inputs["input_ids"][0]
        place = ids == VIDEO
        left = ~place | (place.cumsum(0) <= m)
        embed = self.model.get_input_embeddings()
        out: Tensor = embed(inputs["input_ids"][:, left])
        out[:, place[left]] = self.features(inputs)[:, :m].to(out.dtype)
        return out


def qwen2_5_vl(device: torch.device, small: bool) -> Sized:
    """Qwen2.5-VL-7B: 28 layers of width 3584, a tower of 32 blocks with windows."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = _text(28, 3584, 18944, 28, 4, small, vocab=152064)
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    text["rope_parameters"]["mrope_section"] = [4, 6, 6] if small else [16, 24, 24]
    vision = _vision(32, 1280, 3420, small, patch_size=14, window_size=112, spatial_merge_size=2)
    vision |= {"temporal_patch_size": 2, "fullatt_block_indexes": [1] if small else [7, 15, 23, 31]}
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config={**vision, "out_hidden_size": text["hidden_size"]},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    config.vision_start_token_id, config.vision_end_token_id = START, END
    model = made(Qwen2_5_VLForConditionalGeneration, config, torch.bfloat16, device)

    def inputs(n: int, rows: int) -> dict[str, Tensor]:
        return _qwen(device, [FRAME * max(1, round(n / FRAME))], rows, 14)

    return Sized(model, inputs, _qwen_features(model))


def qwen3_vl(device: torch.device, small: bool) -> Sized:
    """Qwen3-VL-8B: 36 layers of width 4096, a tower of 27 blocks, DeepStack; every two frames stand by themselves."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text = _text(36, 4096, 12288, 32, 8, small, vocab=151936) | {"head_dim": 32 if small else 128}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True}
    text["rope_parameters"]["mrope_section"] = [4, 6, 6] if small else [24, 20, 20]
    vision = _vision(27, 1152, 4304, small, patch_size=16, spatial_merge_size=2, temporal_patch_size=2)
    vision |= {"deepstack_visual_indexes": [0, 1] if small else [8, 16, 24], "num_position_embeddings": 2304}
    config = Qwen3VLConfig(
        text_config=text,
        vision_config={**vision, "out_hidden_size": text["hidden_size"]},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = made(Qwen3VLForConditionalGeneration, config, torch.bfloat16, device)

    def inputs(n: int, rows: int) -> dict[str, Tensor]:
        return _qwen(device, [FRAME] * max(1, round(n / FRAME)), rows, 16)

    return Sized(model, inputs, _qwen_features(model))


def llava_onevision(device: torch.device, small: bool) -> Sized:
    """LLaVA-OneVision-7B: Qwen2-7B under SigLIP-so400m at 384 pixels."""
    from transformers import LlavaOnevisionForConditionalGeneration

    text = _text(28, 3584, 18944, 28, 4, small, vocab=152064)
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    tower = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26, "num_attention_heads": 16}
    if small:
        tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = made(LlavaOnevisionForConditionalGeneration, onevision(text, tower), torch.bfloat16, device)

    def inputs(n: int, rows: int) -> dict[str, Tensor]:
        frames = max(1, round(n / 196))
        ids = _ids(device, [frames * 196 + 1], rows)
        pixels = _noise(device, rows, frames, 3, 384, 384)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}

    def features(given: dict[str, Tensor]) -> Tensor:
        how: dict[str, Any] = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
        out: Tensor = model.model.get_video_features(
            given["pixel_values_videos"], **how, return_dict=True
        ).pooler_output
        return out

    return Sized(model, inputs, features)


#: By the name that results use.
SIZED: dict[str, Callable[[torch.device, bool], Sized]] = {
    "Qwen2.5-VL-7B": qwen2_5_vl,
    "Qwen3-VL-8B": qwen3_vl,
    "LLaVA-OneVision-7B": llava_onevision,
}


def _text(depth: int, width: int, inner: int, heads: int, kv: int, small: bool, vocab: int) -> dict[str, Any]:
    if small:
        depth, width, inner, heads, kv = 2, 64, 128, 2, 1
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        "max_position_embeddings": 131072,
        "eos_token_id": None,
    }


def _vision(depth: int, width: int, inner: int, small: bool, **more: Any) -> dict[str, Any]:
    if small:
        return {"depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 128, **more}
    return {"depth": depth, "hidden_size": width, "num_heads": 16, "intermediate_size": inner, **more}


def _ids(device: torch.device, runs: list[int], rows: int) -> Tensor:
    """(rows, n) int64: text, runs of placeholders (if there are several, each in three tokens of its own), text."""
    text = torch.arange(1000, 1000 + PROMPT)
    parts = [text[:8]]
    for i, n in enumerate(runs):
        run = torch.full((n,), VIDEO)
        parts += [run] if len(runs) == 1 else [torch.tensor([2000 + i % 1000, START]), run, torch.tensor([END])]
    return torch.cat([*parts, text[8:]]).to(device).expand(rows, -1).contiguous()


def _noise(device: torch.device, *shape: int) -> Tensor:
    g = torch.Generator(device).manual_seed(0)
    return torch.randn(*shape, generator=g, device=device, dtype=torch.bfloat16)


def _qwen(device: torch.device, runs: list[int], rows: int, patch: int) -> dict[str, Tensor]:
    ids, frames = _ids(device, runs, rows), sum(runs) // FRAME
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": _noise(device, rows * frames * FRAME * 4, 3 * 2 * patch * patch),
        "video_grid_thw": torch.tensor([[frames, 32, 32]] * rows, device=device),
        "mm_token_type_ids": (ids == VIDEO).int() * 2,
    }


def _qwen_features(model: Any) -> Callable[[dict[str, Tensor]], Tensor]:
    def features(given: dict[str, Tensor]) -> Tensor:
        out = model.model.get_video_features(given["pixel_values_videos"], given["video_grid_thw"], return_dict=True)
        return torch.stack(list(out.pooler_output))

    return features
