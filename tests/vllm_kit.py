"""Tiny random models whose heads are wide enough for vLLM, prompts for them, and what transformers answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import foveate
from model_folders import words

TEXT = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 4096,
    "pad_token_id": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "head_dim": 32,
}
TOWER = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_heads": 2,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 128,
}
ROPE = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}
STEPS = 6


@dataclass(frozen=True)
class Ask:
    """A request: text with media in it, and the keep it asks for (None: the engine's)."""

    text: str
    images: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)
    keep: float | None = None
    fps: float = 2.0


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Blobs of colour, so that tokens differ."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 255, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def clip(frames: int, side: int, seed: int) -> Any:
    """(frames, side, side, 3) uint8: a picture that moves, with a new one half-way."""
    one, two = (np.asarray(picture(side, side, seed + i)) for i in range(2))
    return np.stack([np.roll(one if i < frames // 2 else two, 9 * i, axis=1) for i in range(frames)])


def told(frames: int, fps: float = 2.0) -> dict[str, Any]:
    """What is known of such a video: so many frames a second, none to be left out."""
    return {
        "fps": fps,
        "duration": frames / fps,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "video_backend": "opencv",
        "do_sample_frames": False,
    }


# --- models -----------------------------------------------------------------------------------------------------------


def make(family: str, folder: Path) -> Path:
    """Save the tiny model of that family with its processor."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        (_onevision if family == "llava_onevision" else _qwen)(folder, family)
    return folder


def _qwen(folder: Path, family: str) -> None:
    name = {"qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[family]
    tok = words()
    tokens = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    tokens |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    ids = {f"{k}_token_id": tok.convert_tokens_to_ids(t) for k, t in tokens.items()}
    tower, rope = dict(TOWER), dict(ROPE)
    if family == "qwen2_5_vl":
        tower |= {"window_size": 112, "fullatt_block_indexes": [2], "tokens_per_second": 2}
    else:
        tower |= {"patch_size": 16, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
        rope |= {"mrope_interleaved": True}
    config = getattr(hf, f"{name}Config")(vision_config=tower, text_config={**TEXT, "rope_parameters": rope}, **ids)
    _save(getattr(hf, f"{name}ForConditionalGeneration")(config), folder)
    side = tower["patch_size"] * 2
    level = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if family == "qwen3_vl" else {}  # as its videos have
    pixels = hf.Qwen2VLImageProcessor(
        size={"shortest_edge": 4 * side**2, "longest_edge": 256 * side**2}, patch_size=tower["patch_size"], **level
    )
    many = 256 * side**2 * (16 if family == "qwen3_vl" else 1)
    frames = getattr(hf, "Qwen3VLVideoProcessor" if family == "qwen3_vl" else "Qwen2VLVideoProcessor")(
        size={"shortest_edge": 4 * side**2, "longest_edge": many}, patch_size=tower["patch_size"]
    )
    getattr(hf, f"{name}Processor")(pixels, tok, frames, chat_template=tok.chat_template).save_pretrained(folder)


def _onevision(folder: Path, family: str) -> None:
    tok = words("<image>", "<video>")
    ids = {f"{k}_token_{e}": tok.convert_tokens_to_ids(f"<{k}>") for k in ("image", "video") for e in ("id", "index")}
    tower = hf.SiglipVisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
    )
    points = [[56, 56], [56, 112], [112, 56], [112, 112]]
    text = hf.Qwen2Config(**{k: v for k, v in TEXT.items() if k != "head_dim"})
    config = hf.LlavaOnevisionConfig(
        vision_config=tower,
        text_config=text,
        image_grid_pinpoints=points,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        **ids,
    )
    _save(hf.LlavaOnevisionForConditionalGeneration(config), folder)
    _as_published(folder / "model.safetensors")
    pixels = hf.LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, image_grid_pinpoints=points)
    frames = hf.LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56})
    hf.LlavaOnevisionProcessor(
        pixels,
        tok,
        frames,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=tok.chat_template,
    ).save_pretrained(folder)


def _save(model: Any, folder: Path) -> None:
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.normal_(std=p[0].numel() ** -0.5)
            elif name.endswith("image_newline"):
                p.normal_(std=TEXT["hidden_size"] ** -0.5)
    model.generation_config.update(pad_token_id=256, bos_token_id=None, eos_token_id=None)
    model.save_pretrained(folder)


def _as_published(file: Path) -> None:
    """Name the tower's weights as published checkpoints do, which is what vLLM looks for."""
    plain, full = "vision_tower.", "vision_tower.vision_model."
    weights = {k: v.contiguous() for k, v in load_file(file).items()}
    renamed = {k if full in k else k.replace(plain, full): v for k, v in weights.items()}
    save_file(renamed, file, metadata={"format": "pt"})


# --- the reference ----------------------------------------------------------------------------------------------------


class Reference:
    """transformers with ``foveate.apply``."""

    def __init__(self, folder: Path) -> None:
        kind = json.loads((folder / "config.json").read_text())["architectures"][0]
        self.model = getattr(hf, kind).from_pretrained(folder, dtype=torch.float32).eval()
        name = kind.replace("ForConditionalGeneration", "Processor")
        self.processor = getattr(hf, name).from_pretrained(folder)
        self.stamped = "Qwen" in kind

    def inputs(self, ask: Ask) -> dict[str, Any]:
        """What the model is called with."""
        given: dict[str, Any] = {"text": [ask.text], "return_tensors": "pt"}
        if ask.images:
            given["images"] = ask.images
        if ask.videos:
            given["videos"] = ask.videos
            given["do_sample_frames"] = False
            if self.stamped:
                metadata = {k: v for k, v in told(len(ask.videos[0]), ask.fps).items() if k != "do_sample_frames"}
                given["video_metadata"] = [metadata for _ in ask.videos]
        return dict(self.processor(**given))

    def answer(self, ask: Ask, plan: str | None) -> tuple[list[int], list[int], Tensor]:
        """The ids of the prompt that are left, the tokens written, and their log-probabilities (STEPS, V)."""
        inputs = self.inputs(ask)
        more = {"max_new_tokens": STEPS, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        n = inputs["input_ids"].shape[1]
        left = torch.ones(n, dtype=torch.bool)
        with torch.no_grad():
            if plan is None:
                out = self.model.generate(**inputs, **more)
            else:
                with foveate.apply(self.model, plan) as report:
                    out = self.model.generate(**inputs, **more)
                for made in report.kept:
                    assert made.where is not None
                    left[made.where] = made.reduction.kept[0]
        logits = torch.stack(out.logits, 1)[0].float()
        return inputs["input_ids"][0][left].tolist(), out.sequences[0, n:].tolist(), logits.log_softmax(-1)
