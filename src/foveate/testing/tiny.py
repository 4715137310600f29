"""A zoo of tiny, randomly initialised Hugging Face models with ready inputs, for tests that need no download.

    zoo = tiny("qwen2_5_vl", batch=2, ragged=True)
    zoo.model.generate(**zoo.inputs, max_new_tokens=3, do_sample=False)

Every model has hidden size 32, 4 heads, 3 or 4 blocks and a vocabulary of 128, and builds in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

from foveate.testing.tiny_prompt import TEXT, Ask, Tiny, text_inputs
from foveate.testing.tiny_vlm import TOWER, VIDEO_FAMILIES, VLM, gemma3_text_config

__all__ = ["FAMILIES", "TINY", "Ask", "Tiny", "tiny"]


def _vit(config: Any, model: Any, **more: Any) -> Callable[[Ask], Tiny]:
    """A builder of a vision transformer of 4 blocks: pixel_values (batch, 3, 32, 32), 64 patches."""

    def build(ask: Ask) -> Tiny:
        built = model(config(**TOWER | {"num_hidden_layers": 4, "image_size": 32, **more}))
        pixels = torch.stack([ask.noise(row, 0, 3, 32, 32) for row in range(ask.batch)])
        return Tiny(built, {"pixel_values": pixels}, ask.family, "vit")

    return build


def _lm(config: Callable[[], Any], model: Any) -> Callable[[Ask], Tiny]:
    """A builder of a language model: input_ids (batch, 32), ragged (batch, 40)."""
    return lambda ask: Tiny(model(config()), text_inputs(ask), ask.family, "lm")


VIT: dict[str, Callable[[Ask], Tiny]] = {
    "vit": _vit(hf.ViTConfig, hf.ViTModel),
    "deit": _vit(hf.DeiTConfig, hf.DeiTModel),
    "clip": _vit(hf.CLIPVisionConfig, hf.CLIPVisionModel, projection_dim=32),
    "siglip": _vit(hf.SiglipVisionConfig, hf.SiglipVisionModel),
    "dinov2": _vit(hf.Dinov2Config, hf.Dinov2Model, mlp_ratio=2),
}

LM: dict[str, Callable[[Ask], Tiny]] = {
    "llama": _lm(lambda: hf.LlamaConfig(**TEXT), hf.LlamaForCausalLM),
    "qwen2": _lm(lambda: hf.Qwen2Config(**TEXT), hf.Qwen2ForCausalLM),
    "qwen3": _lm(lambda: hf.Qwen3Config(**TEXT, head_dim=8), hf.Qwen3ForCausalLM),
    "mistral": _lm(lambda: hf.MistralConfig(**TEXT, sliding_window=None), hf.MistralForCausalLM),
    "gemma3_text": _lm(gemma3_text_config, hf.Gemma3ForCausalLM),
}

TINY: dict[str, Callable[[Ask], Tiny]] = {**VLM, **VIT, **LM}
"""Name to builder. A builder takes an `Ask` and leaves the weights as Hugging Face draws them; `tiny` does the rest."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "vlm": tuple(VLM),
    "vit": tuple(VIT),
    "lm": tuple(LM),
    "video": VIDEO_FAMILIES,
}
"""Names by kind; "video" are the VLMs that take `video=True`."""


def tiny(
    name: str,
    *,
    attn: str = "sdpa",
    seed: int = 0,
    batch: int = 1,
    images: int = 1,
    dtype: torch.dtype = torch.float32,
    ragged: bool = False,
    video: bool = False,
) -> Tiny:
    """The tiny model `name` in eval mode, and inputs for it.

    Same seed, same weights and inputs, whatever the global random state, which is left as it was; row 0 of the inputs
    is the same for any `batch` and `ragged`. `images` is per row. `ragged` takes a batch of at least two, whose odd
    rows hold one image and a few words more, left padded; `video` swaps each image for a video. End of sequence is
    off, so generation runs to `max_new_tokens`. `images` means nothing to a "vit" or "lm".
    """
    _check(name, batch, images, ragged, video)
    ask = Ask(name, seed, max(batch, 2) if ragged else batch, images, ragged, video)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        out = TINY[name](ask)
        _spread(out.model)
    for parameter in out.model.parameters():
        parameter.data = parameter.data.to(dtype)
    out.inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in out.inputs.items()}
    if out.kind != "vit":
        out.model.generation_config.update(pad_token_id=0, bos_token_id=1, eos_token_id=None)
    out.model.set_attn_implementation(attn)
    out.model.eval()
    return out


def _check(name: str, batch: int, images: int, ragged: bool, video: bool) -> None:
    """Say what is wrong with an ask that no tiny model can answer."""
    if name not in TINY:
        raise ValueError(f"no tiny model {name!r}; there are {', '.join(TINY)}")
    if batch < 1 or images < 1:
        raise ValueError(f"batch and images must be at least 1, not {batch} and {images}")
    if video and name not in VIDEO_FAMILIES:
        raise ValueError(f"tiny {name!r} takes no video; {', '.join(VIDEO_FAMILIES)} do")
    if ragged and name in VIT:
        raise ValueError(f"tiny {name!r} takes images only, so its batch cannot be ragged")


@torch.no_grad()
def _spread(model: torch.nn.Module) -> None:
    """Redraw the weights wide enough that attention, features and the choice of tokens really differ.

    The usual 0.02 (and zeros, in Gemma 3's projector) leaves a model this narrow almost constant. Matrices get
    variance 1 / fan-in, biases a little noise; norms and scales stay.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            fan = parameter[0].numel() if parameter.shape[0] > 1 else parameter.shape[-1]
            parameter.normal_(std=fan**-0.5)
        elif name.endswith("bias"):
            parameter.normal_(std=0.1)
