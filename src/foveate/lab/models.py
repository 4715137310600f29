"""The lab's two models, of exactly the architectures that people run: LLaVA for images, Qwen2.5-VL for videos.

Both are made with random weights, saved as Hugging Face folders with all that loads them offline, and at most 25 MB.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..prompt.pixels import PatchRule
from . import tokenizer

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
LIMIT = 25e6  # bytes of weights; above it they are saved in bfloat16


@dataclass(frozen=True)
class Stack:
    """A transformer: width, layers, heads, width of the MLP, and heads of keys and values (0: as many as heads)."""

    width: int
    layers: int
    heads: int
    mlp: int
    kv_heads: int = 0


@dataclass(frozen=True)
class Sizes:
    """How large a model is.

    Attributes:
        tower, text: the vision encoder and the decoder.
        side: pixels on the side of pictures (video: of frames) it is trained on; patch: of a patch.
        merge: patches on the side of one visual token. temporal: frames in one.
        frames: of clips it is trained on.
    """

    tower: Stack
    text: Stack
    side: int
    patch: int = 14
    merge: int = 1
    temporal: int = 1
    frames: tuple[int, ...] = field(default=())

    @property
    def token(self) -> int:
        """Pixels on the side of one visual token."""
        return self.patch * self.merge


KINDS = ("image", "video")
SIZES = {
    "image": Sizes(Stack(192, 5, 3, 768), Stack(256, 5, 4, 512, 2), side=168),
    "video": Sizes(
        Stack(160, 4, 4, 480), Stack(256, 5, 4, 512, 2), side=112, patch=7, merge=2, temporal=2, frames=(8, 16, 8, 12)
    ),
}


def small(kind: str) -> Sizes:
    """Shrunken sizes of the same architecture, to try the training in seconds."""
    sizes = SIZES[known(kind)]
    tower, text = Stack(32, 2, 2, 64), Stack(32, 2, 4, 64, 2)
    return replace(sizes, tower=tower, text=text, side=112, frames=(8,) if sizes.frames else ())


def known(kind: str) -> str:
    """The kind itself. Raises InputError for anything but "image" and "video"."""
    if kind not in KINDS:
        raise InputError(f"the lab trains 'image' or 'video'. Got {kind!r}.")
    return kind


def make(kind: str, sizes: Sizes, seed: int = 0) -> Any:
    """A model with random weights, in float32 and train mode. The global random state is left as it was."""
    build: Callable[[Sizes], Any] = {"image": _llava, "video": _qwen}[known(kind)]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build(sizes).float()
        _spread(model)
    known_ids = tokenizer.entries()
    model.generation_config.update(
        bos_token_id=known_ids[tokenizer.BOS],
        eos_token_id=known_ids[tokenizer.EOS],
        pad_token_id=known_ids[tokenizer.PAD],
    )
    return model.train()


def _text(sizes: Sizes, **more: Any) -> dict[str, Any]:
    ids, text = tokenizer.entries(), sizes.text
    return {
        "hidden_size": text.width,
        "intermediate_size": text.mlp,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads or text.heads,
        "vocab_size": len(ids),
        "max_position_embeddings": 4096,
        "bos_token_id": ids[tokenizer.BOS],
        "eos_token_id": ids[tokenizer.EOS],
        "pad_token_id": ids[tokenizer.PAD],
        "tie_word_embeddings": False,
        **more,
    }


def _llava(sizes: Sizes) -> Any:
    """CLIP tower with a class token that the projector does not see, features of the last layer but one, Llama."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tower = sizes.tower
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=tower.width,
            intermediate_size=tower.mlp,
            num_hidden_layers=tower.layers,
            num_attention_heads=tower.heads,
            image_size=sizes.side,
            patch_size=sizes.patch,
            projection_dim=tower.width,
        ),
        text_config=LlamaConfig(**_text(sizes, rope_parameters={"rope_type": "default", "rope_theta": 1e4})),
        image_token_id=tokenizer.entries()[tokenizer.IMAGE],
        image_seq_length=(sizes.side // sizes.patch) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    return LlavaForConditionalGeneration(config)


def _qwen(sizes: Sizes) -> Any:
    """Qwen2.5-VL: a tower of windowed attention but for its last layer, groups of 2 x 2 patches merged, M-RoPE."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids, tower = tokenizer.entries(), sizes.tower
    half = sizes.text.width // sizes.text.heads // 2
    section = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    rope = {"rope_type": "default", "mrope_section": section, "rope_theta": 1e4}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": tower.layers,
            "hidden_size": tower.width,
            "intermediate_size": tower.mlp,
            "num_heads": tower.heads,
            "patch_size": sizes.patch,
            "spatial_merge_size": sizes.merge,
            "temporal_patch_size": sizes.temporal,
            "window_size": 4 * sizes.token,
            "fullatt_block_indexes": [tower.layers - 1],
            "out_hidden_size": sizes.text.width,
            "tokens_per_second": 4,
        },
        text_config=_text(sizes, rope_parameters=rope),
        image_token_id=ids[tokenizer.IMAGE],
        video_token_id=ids[tokenizer.VIDEO],
        vision_start_token_id=ids[tokenizer.START],
        vision_end_token_id=ids[tokenizer.END],
        tie_word_embeddings=False,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


@torch.no_grad()
def _spread(model: nn.Module) -> None:
    """Matrices with variance 1 / fan-in, those that write to the residual stream less; 0.02 is too narrow here."""
    depth = max(len(m) for m in model.modules() if isinstance(m, nn.ModuleList))
    for name, p in model.named_parameters():
        if "embed_tokens" in name:
            p.normal_(std=1)
        elif "position_embedding" in name or "class_embedding" in name:
            p.normal_(std=0.3)
        elif p.ndim > 1:
            writes = any(f"{part}.weight" in name for part in ("o_proj", "out_proj", "down_proj", "fc2", "attn.proj"))
            p.normal_(std=p[0].numel() ** -0.5 * ((2 * depth) ** -0.5 if writes else 1))
        elif name.endswith("bias"):
            p.zero_()


def rule(sizes: Sizes) -> PatchRule:
    """How frames of the video model are cut into patches."""
    cell = sizes.token**2
    return PatchRule(
        patch=sizes.patch,
        temporal=sizes.temporal,
        merge=sizes.merge,
        low=16 * cell,
        high=576 * cell,
        mean=MEAN,
        std=STD,
    )


def save(model: Any, kind: str, sizes: Sizes, folder: Path) -> None:
    """Write a folder that the Auto classes of transformers, and :func:`foveate.load`, read offline."""
    folder.mkdir(parents=True, exist_ok=True)
    bytes_of = sum(p.numel() * 4 for p in model.parameters())
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    kept = torch.float32 if bytes_of <= LIMIT else torch.bfloat16
    out = make(kind, sizes).to(kept).eval()
    out.load_state_dict(state)
    out.save_pretrained(folder)
    words = tokenizer.make()
    if kind == "image":
        _llava_processor(sizes, words).save_pretrained(folder)
    else:
        words.save_pretrained(folder)
        _qwen_processor(sizes, folder)


def _llava_processor(sizes: Sizes, words: Any) -> Any:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side = {"height": sizes.side, "width": sizes.side}
    pixels = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False, image_mean=MEAN, image_std=STD)
    return LlavaProcessor(
        pixels,
        words,
        patch_size=sizes.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.TEMPLATE,
    )


def _qwen_processor(sizes: Sizes, folder: Path) -> None:
    from transformers import Qwen2VLImageProcessorPil

    cut = rule(sizes)
    shared = {
        "size": {"shortest_edge": cut.low, "longest_edge": cut.high},
        "patch_size": sizes.patch,
        "temporal_patch_size": sizes.temporal,
        "merge_size": sizes.merge,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    Qwen2VLImageProcessorPil(**shared).save_pretrained(folder)
    video = {**shared, "video_processor_type": "Qwen2VLVideoProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video, indent=2) + "\n", encoding="utf-8")
