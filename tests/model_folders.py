"""Tiny random models saved as Hugging Face folders, with tokenizers and processors, so that tests load as users do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from foveate.builtin import tokenizer as byte_tokenizer

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 4096,
    "pad_token_id": 256,
    "bos_token_id": None,
    "eos_token_id": None,
}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
_QWEN_TOWER = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
}
_PLAIN = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}<{{ c['type'] }}>{% endif %}"
    "{% endfor %}{% endif %}\n{% endfor %}assistant: "
)


def words(*extra: str) -> Any:
    """The byte tokenizer with more special tokens."""
    out = byte_tokenizer()
    out.add_special_tokens({"additional_special_tokens": list(extra)} if extra else {})
    return out


def named(**tokens: str) -> Any:
    """The byte tokenizer with special tokens that processors find by name (``tok.boi_token`` and the like)."""
    core = words(*tokens.values()).backend_tokenizer
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=tokens
    )


def _rope(**more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4, **more}}


def _qwen(folder: Path, family: str) -> None:
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
    tok = words()
    ids = {
        f"{k}_token_id": tok.convert_tokens_to_ids(t)
        for k, t in {
            "image": "<|image_pad|>",
            "video": "<|video_pad|>",
            "vision_start": "<|vision_start|>",
            "vision_end": "<|vision_end|>",
        }.items()
    }
    tower, text = dict(_QWEN_TOWER), {**TEXT, **_rope()}
    if family == "qwen2_5_vl":
        tower |= {"window_size": 112, "fullatt_block_indexes": [2], "tokens_per_second": 2}
    elif family == "qwen3_vl":
        tower |= {"patch_size": 16, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
        text |= {"head_dim": 8, **_rope(mrope_interleaved=True)}
    else:
        tower = {k: v for k, v in tower.items() if k not in ("out_hidden_size", "intermediate_size")}
        tower |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    config = getattr(hf, f"{names[family]}Config")(vision_config=tower, text_config=text, **ids)
    _save(getattr(hf, f"{names[family]}ForConditionalGeneration")(config), folder)
    tok.save_pretrained(folder)
    side = tower["patch_size"] * 2
    size = {"shortest_edge": 4 * side**2, "longest_edge": 64 * side**2}
    hf.Qwen2VLImageProcessorPil(size=size, patch_size=tower["patch_size"]).save_pretrained(folder)
    frames = {
        "size": {"shortest_edge": 4 * side**2, "longest_edge": 16 * side**2 * (64 if family == "qwen3_vl" else 1)}
    }
    (folder / "video_preprocessor_config.json").write_text(json.dumps(frames))


def _llava(folder: Path) -> None:
    tok = words("<image>")
    image = tok.convert_tokens_to_ids("<image>")
    tower = hf.CLIPVisionConfig(**TOWER, image_size=56, patch_size=14, projection_dim=32)
    config = hf.LlavaConfig(vision_config=tower, text_config=hf.LlamaConfig(**TEXT), image_token_id=image)
    _save(hf.LlavaForConditionalGeneration(config), folder)
    pixels = hf.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    hf.LlavaProcessor(
        pixels,
        tok,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_PLAIN,
    ).save_pretrained(folder)


def _onevision(folder: Path) -> None:
    tok = words("<image>", "<video>")
    ids = {f"{k}_token_id": tok.convert_tokens_to_ids(f"<{k}>") for k in ("image", "video")}
    ids |= {f"{k}_token_index": tok.convert_tokens_to_ids(f"<{k}>") for k in ("image", "video")}
    tower = hf.SiglipVisionConfig(**TOWER, image_size=56, patch_size=14)
    points = [[56, 56], [56, 112], [112, 56], [112, 112]]
    config = hf.LlavaOnevisionConfig(
        vision_config=tower,
        text_config=hf.Qwen2Config(**TEXT),
        image_grid_pinpoints=points,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        **ids,
    )
    _save(hf.LlavaOnevisionForConditionalGeneration(config), folder)
    tok.save_pretrained(folder)
    hf.LlavaOnevisionImageProcessorPil(size={"height": 56, "width": 56}, image_grid_pinpoints=points).save_pretrained(
        folder
    )
    told = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": 16,
        "vision_feature_select_strategy": "full",
    }
    (folder / "processor_config.json").write_text(json.dumps(told))
    (folder / "chat_template.jinja").write_text(_PLAIN)


def _gemma3(folder: Path) -> None:
    tok = named(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    tower = hf.SiglipVisionConfig(**TOWER, image_size=56, patch_size=14, vision_use_head=False)
    config = hf.Gemma3Config(
        vision_config=tower,
        text_config=hf.Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=512),
        mm_tokens_per_image=4,
        image_token_index=tok.image_token_id,
        boi_token_index=tok.boi_token_id,
        eoi_token_index=tok.eoi_token_id,
    )
    _save(hf.Gemma3ForConditionalGeneration(config), folder)
    pixels = hf.Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    template = _PLAIN.replace("<{{ c['type'] }}>", "<start_of_image>")
    hf.Gemma3Processor(pixels, tok, chat_template=template, image_seq_length=4).save_pretrained(folder)


def _internvl(folder: Path) -> None:
    tok = named(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    tower = hf.InternVLVisionConfig(**TOWER, image_size=[56, 56], patch_size=[14, 14])
    config = hf.InternVLConfig(
        vision_config=tower,
        text_config=hf.Qwen2Config(**TEXT),
        image_token_id=tok.context_image_token_id,
        downsample_ratio=0.5,
    )
    _save(hf.InternVLForConditionalGeneration(config), folder)
    tok.save_pretrained(folder)
    hf.GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, crop_to_patches=True).save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"image_seq_length": 4}))
    (folder / "chat_template.jinja").write_text(
        _PLAIN.replace("<{{ c['type'] }}>", "<{{ c['type'] if c['type'] == 'video' else 'IMG_CONTEXT' }}>")
    )


def _text(folder: Path) -> None:
    _save(hf.Qwen2ForCausalLM(hf.Qwen2Config(**TEXT)), folder)
    words().save_pretrained(folder)


def _save(model: Any, folder: Path) -> None:
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(std=p[0].numel() ** -0.5)
    model.generation_config.update(pad_token_id=256, bos_token_id=None, eos_token_id=None)
    model.save_pretrained(folder)


MAKERS = {
    "qwen2_vl": lambda f: _qwen(f, "qwen2_vl"),
    "qwen2_5_vl": lambda f: _qwen(f, "qwen2_5_vl"),
    "qwen3_vl": lambda f: _qwen(f, "qwen3_vl"),
    "llava": _llava,
    "llava_onevision": _onevision,
    "gemma3": _gemma3,
    "internvl": _internvl,
    "text": _text,
}


def make(family: str, root: Path) -> Path:
    """Save the tiny model of that family under ``root`` and return its folder."""
    folder = root / family
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        MAKERS[family](folder)
    return folder
