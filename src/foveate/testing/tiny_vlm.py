"""The tiny vision-language models: one builder for each family, from an `Ask` to a `Tiny`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from foveate.testing.tiny_prompt import BOS, END, IMAGE, START, TEXT, VIDEO, Ask, Tiny, per_row, visual_inputs

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "patch_size": 4,
}
"""Arguments shared by every vision tower of fixed image size."""

CROP = 16
FRAMES = 12
PINPOINTS = [[CROP, 2 * CROP], [2 * CROP, CROP], [2 * CROP, 2 * CROP]]


def _vlm(ask: Ask, model: Any, media: Sequence[Sequence[int]], inputs: dict[str, Any], types: str | None) -> Tiny:
    """The finished tiny model: the prompt for `media` joined with the pixel inputs."""
    runs = per_row(ask, media)
    return Tiny(model, visual_inputs(ask, media, types) | inputs, ask.family, "vlm", runs[0][0], runs)


def _squares(ask: Ask, model: Any, side: int, tokens: int, types: str | None = None) -> Tiny:
    """Images of one fixed size: pixel_values (images, 3, side, side)."""
    pixels = torch.stack([ask.noise(row, k, 3, side, side) for row, k in ask.slots()])
    return _vlm(ask, model, [[tokens]] * len(pixels), {"pixel_values": pixels}, types)


def _llava(ask: Ask) -> Tiny:
    """LLaVA: CLIP tower with a class token that the "default" strategy drops, features of the last layer but one."""
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**TOWER, image_size=32, projection_dim=32),
        text_config=hf.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        image_seq_length=64,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return _squares(ask, hf.LlavaForConditionalGeneration(config), 32, 64)


def _internvl(ask: Ask) -> Tiny:
    """InternVL: 144 patches and a class token, pixel shuffle to 36 tokens."""
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**TOWER, image_size=48),
        text_config=hf.Qwen2Config(**TEXT),
        image_token_id=IMAGE,
        image_seq_length=36,
        tie_word_embeddings=False,
    )
    return _squares(ask, hf.InternVLForConditionalGeneration(config), 48, 36)


def gemma3_text_config() -> Any:
    """Gemma 3 text: sliding and full attention layers in turn, window 16."""
    return hf.Gemma3TextConfig(
        **TEXT,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )


def _gemma3(ask: Ask) -> Tiny:
    """Gemma 3: 144 patches pooled to 36 tokens, which see each other both ways; token_type_ids mark them."""
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**TOWER, image_size=48, vision_use_head=False),
        text_config=gemma3_text_config(),
        mm_tokens_per_image=36,
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
        bos_token_id=BOS,
        eos_token_id=None,
    )
    return _squares(ask, hf.Gemma3ForConditionalGeneration(config), 48, 36, "token_type_ids")


def _idefics(ask: Ask, config: Any, vision: Any, model: Any) -> Tiny:
    """Idefics3 and SmolVLM: 144 patches, pixel shuffle to 36 tokens.

    pixel_values (batch, most images, 3, 48, 48) and pixel_attention_mask (batch, most images, 48, 48), zero where a
    row has fewer images.
    """
    built = model(
        config(
            vision_config=vision(**TOWER, image_size=48),
            text_config=hf.LlamaConfig(**TEXT),
            image_token_id=IMAGE,
            scale_factor=2,
        )
    )
    pixels = torch.zeros(ask.batch, max(ask.counts()), 3, 48, 48)
    mask = torch.zeros(ask.batch, max(ask.counts()), 48, 48, dtype=torch.bool)
    for row, k in ask.slots():
        pixels[row, k], mask[row, k] = ask.noise(row, k, 3, 48, 48), True
    inputs = {"pixel_values": pixels, "pixel_attention_mask": mask}
    return _vlm(ask, built, [[36]] * len(ask.slots()), inputs, None)


def _idefics3(ask: Ask) -> Tiny:
    return _idefics(ask, hf.Idefics3Config, hf.Idefics3VisionConfig, hf.Idefics3ForConditionalGeneration)


def _smolvlm(ask: Ask) -> Tiny:
    return _idefics(ask, hf.SmolVLMConfig, hf.SmolVLMVisionConfig, hf.SmolVLMForConditionalGeneration)


def _crops(ask: Ask, sizes: Sequence[tuple[int, int]], counts: Sequence[int]) -> dict[str, Any]:
    """Crops of each image, padded to the most: pixel_values (images, crops, 3, 16, 16), image_sizes (images, 2)."""
    pixels = torch.zeros(len(sizes), max(counts), 3, CROP, CROP)
    for index, ((row, k), count) in enumerate(zip(ask.slots(), counts)):
        pixels[index, :count] = ask.noise(row, k, count, 3, CROP, CROP)
    return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}


def _sizes(ask: Ask) -> list[tuple[int, int]]:
    """Height and width of each image; the image that ragged odd rows hold more is larger."""
    return [(2 * CROP, 2 * CROP) if k >= ask.images else (CROP, 2 * CROP) for _, k in ask.slots()]


def _anyres(size: tuple[int, int]) -> tuple[int, int]:
    """(crops, visual tokens) of an image cut into crops: the whole at 4 x 4, then every patch and a newline a line."""
    high, wide = size[0] // CROP, size[1] // CROP
    return 1 + high * wide, 16 + 4 * high * (4 * wide + 1)


def _llava_next(ask: Ask) -> Tiny:
    """LLaVA-NeXT: images of 16 x 32 in two crops and the whole, 52 tokens (ragged: one of 32 x 32, 88 tokens)."""
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**TOWER, image_size=CROP, projection_dim=32),
        text_config=hf.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS,
    )
    sizes = _sizes(ask)
    crops, tokens = zip(*map(_anyres, sizes))
    inputs = _crops(ask, sizes, crops)
    return _vlm(ask, hf.LlavaNextForConditionalGeneration(config), [[n] for n in tokens], inputs, None)


def _llava_onevision(ask: Ask) -> Tiny:
    """LLaVA-OneVision: a lone image of a row is cut into crops (52 tokens), several are not (17 each).

    Videos: pixel_values_videos (videos, 12, 3, 16, 16), 4 pooled tokens a frame and a newline, 49 tokens.
    """
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**TOWER, image_size=CROP, vision_use_head=False),
        text_config=hf.Qwen2Config(**TEXT),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
    )
    model = hf.LlavaOnevisionForConditionalGeneration(config)
    if ask.video:
        frames = torch.stack([ask.noise(row, k, FRAMES, 3, CROP, CROP) for row, k in ask.slots()])
        return _vlm(ask, model, [[4 * FRAMES + 1]] * len(frames), {"pixel_values_videos": frames}, None)
    sizes, counts = _sizes(ask), ask.counts()
    parts = [_anyres(size) if counts[row] == 1 else (1, 17) for (row, _), size in zip(ask.slots(), sizes)]
    inputs = _crops(ask, sizes, [crops for crops, _ in parts]) | {"batch_num_images": torch.tensor(counts)}
    return _vlm(ask, model, [[tokens] for _, tokens in parts], inputs, None)


QWEN_VISION: dict[str, Any] = {"depth": 3, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "in_channels": 3}


def _qwen_grids(ask: Ask) -> Tensor:
    """Patch grid (time, height, width) of each image or video, (images, 3); the ragged further image is smaller."""
    usual, other = ((4, 8, 8), (2, 8, 8)) if ask.video else ((1, 16, 16), (1, 16, 8))
    return torch.tensor([other if k >= ask.images else usual for _, k in ask.slots()])


def _qwen(ask: Ask, config: Any, model: Any, vision: dict[str, Any], rope: dict[str, Any], by_frame: bool) -> Tiny:
    """Qwen-VL families: 64 tokens an image or a video (4 frames of 16); pixels (patches, 96), grid (images, 3).

    `by_frame` lays a video out with each of its frames between its own start and end tokens, as Qwen3-VL does.
    """
    text = TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2], **rope}}
    ids = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}
    built = model(config(vision_config=QWEN_VISION | vision, text_config=text, **ids))
    grids = _qwen_grids(ask)
    pixels = torch.cat([ask.noise(row, k, int(grid.prod()), 96) for (row, k), grid in zip(ask.slots(), grids)])
    media = [[h * w // 4] * t if by_frame else [t * h * w // 4] for t, h, w in grids.tolist()]
    names = ("pixel_values_videos", "video_grid_thw") if ask.video else ("pixel_values", "image_grid_thw")
    return _vlm(ask, built, media, dict(zip(names, (pixels, grids))), "mm_token_type_ids")


def _qwen2_vl(ask: Ask) -> Tiny:
    vision = {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    return _qwen(ask, hf.Qwen2VLConfig, hf.Qwen2VLForConditionalGeneration, vision, {}, by_frame=False)


def _qwen2_5_vl(ask: Ask) -> Tiny:
    """Qwen2.5-VL: windows of 2 x 2 tokens (16 an image) in two blocks, full attention in the last."""
    vision: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32}
    vision |= {"window_size": 16, "fullatt_block_indexes": [2]}
    out = _qwen(ask, hf.Qwen2_5_VLConfig, hf.Qwen2_5_VLForConditionalGeneration, vision, {}, by_frame=False)
    if ask.video:
        out.inputs["second_per_grid_ts"] = torch.ones(len(ask.slots()))
    return out


def _qwen3_vl(ask: Ask) -> Tiny:
    """Qwen3-VL: the features of vision blocks 0 and 1 join the first LLM layers (deepstack)."""
    vision: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32}
    vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    config = _with_text(hf.Qwen3VLConfig, head_dim=8)
    rope = {"mrope_interleaved": True}
    return _qwen(ask, config, hf.Qwen3VLForConditionalGeneration, vision, rope, by_frame=ask.video)


def _with_text(config: Any, **more: Any) -> Callable[..., Any]:
    """A config class that takes further text arguments."""
    return lambda *, text_config, **rest: config(text_config=text_config | more, **rest)


VLM: dict[str, Callable[[Ask], Tiny]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "internvl": _internvl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "gemma3": _gemma3,
}

VIDEO_FAMILIES = ("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
