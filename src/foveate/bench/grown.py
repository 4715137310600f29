"""A small model in the shape of a large one: the same words, at the large one's cost for each.

What a drafter saves depends on how often its guesses are right, which takes a model that learned something, and on what
a forward costs beside the drafter, which takes a large one. Here a trained decoder is set into zeros: more channels,
heads and layers, none of which changes what it says.
"""

from __future__ import annotations

import copy
import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True)
class Shape:
    """Of a decoder. The default is about half a billion parameters, as LLaMA-like models of that size have them."""

    hidden: int = 896
    layers: int = 24
    heads: int = 14
    kv_heads: int = 7
    head_dim: int = 64
    ffn: int = 4864


HALF_BILLION = Shape()
KINDS = ("llama", "mistral", "qwen2", "qwen2_5_vl_text")


def grow(model: Any, shape: Shape = HALF_BILLION) -> Any:
    """A new model of the same class whose decoder has this shape and whose logits are those of ``model``.

    model: a Llama, Mistral or Qwen2 decoder, alone or in a LLaVA or a Qwen2.5-VL. It is not changed.

    Raises:
        InputError: the shape is smaller than the model, or the decoder is of a kind that is not known here.
    """
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    small = _shape(text)
    _check(small, shape, text)
    text.hidden_size, text.num_hidden_layers, text.intermediate_size = shape.hidden, shape.layers, shape.ffn
    text.num_attention_heads, text.num_key_value_heads, text.head_dim = shape.heads, shape.kv_heads, shape.head_dim
    text.rms_norm_eps = text.rms_norm_eps * small.hidden / shape.hidden
    if hasattr(getattr(config, "vision_config", None), "out_hidden_size"):
        config.vision_config.out_hidden_size = shape.hidden
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[0]] * shape.layers
    parameter = next(model.parameters())
    with torch.random.fork_rng(devices=[]):
        big = type(model)(config).to(parameter.device, parameter.dtype).eval()
    if getattr(model, "generation_config", None) is not None:
        big.generation_config = copy.deepcopy(model.generation_config)
    maps = _Maps(small, shape, parameter.device)
    old = model.state_dict()
    with torch.no_grad():
        for name, to in big.state_dict().items():
            if _is_text(name):
                to.zero_()
            if name in old:
                maps.place(name, old[name], to)
    big.tie_weights()
    return big


def _shape(text: Any) -> Shape:
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kv = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return Shape(text.hidden_size, text.num_hidden_layers, text.num_attention_heads, kv, head, text.intermediate_size)


def _check(small: Shape, shape: Shape, text: Any) -> None:
    if text.model_type not in KINDS:
        raise InputError(f"a decoder of kind {text.model_type!r} cannot be grown; {', '.join(KINDS)} can")
    for name in ("hidden", "layers", "kv_heads", "ffn"):
        if getattr(shape, name) < getattr(small, name):
            raise InputError(f"'{name}' of the shape is {getattr(shape, name)}, the model's is {getattr(small, name)}")
    if shape.heads % shape.kv_heads or shape.heads // shape.kv_heads < small.heads // small.kv_heads:
        raise InputError(
            f"{shape.heads} heads over {shape.kv_heads} do not take {small.heads} over {small.kv_heads}: each key head "
            f"needs at least {small.heads // small.kv_heads} query heads"
        )
    if text.model_type.endswith("vl_text") and shape.hidden != shape.heads * shape.head_dim:
        raise InputError(f"'hidden' must be heads x head_dim = {shape.heads * shape.head_dim}. Got {shape.hidden}.")
    parts = "mrope_section" in (getattr(text, "rope_parameters", None) or {})
    if shape.head_dim != small.head_dim if parts else shape.head_dim % small.head_dim:
        must = "must be" if parts else "must be a multiple of"
        raise InputError(f"'head_dim' {shape.head_dim} {must} the model's {small.head_dim}")


def _is_text(name: str) -> bool:
    return "vision_tower" not in name and ("visual." not in name or "merger.mlp.2" in name)


class _Maps:
    """Where the numbers of a small decoder stand in a large one."""

    def __init__(self, small: Shape, shape: Shape, device: torch.device):
        self.small, self.shape = small, shape
        # A head's channels turn in pairs, at speeds set by their share of the width: those of equal speed are found.
        half, step = small.head_dim // 2, shape.head_dim // small.head_dim
        within = torch.tensor([i * step + (shape.head_dim // 2 if part else 0) for part in (0, 1) for i in range(half)])
        group, wide = small.heads // small.kv_heads, shape.heads // shape.kv_heads
        heads = torch.tensor([(h // group) * wide + h % group for h in range(small.heads)])
        plain = torch.arange(small.kv_heads)
        self.query = (heads[:, None] * shape.head_dim + within).flatten().to(device)
        self.key = (plain[:, None] * shape.head_dim + within).flatten().to(device)

    def place(self, name: str, old: Tensor, to: Tensor) -> None:
        """One tensor of the small model into its place among zeros."""
        if not _is_text(name):
            to.copy_(old)
        elif "norm" in name:  # the mean square is now taken over more channels
            to[: len(old)] = old * math.sqrt(self.small.hidden / self.shape.hidden)
        elif re.search(r"q_proj", name):
            # the softmax divides by the root of the head's width
            self._rows(to, old)[self.query] = old * math.sqrt(self.shape.head_dim / self.small.head_dim)
        elif re.search(r"[kv]_proj", name):
            self._rows(to, old)[self.key] = old
        elif "o_proj" in name:
            to[: len(old), self.query] = old
        else:
            to[tuple(slice(n) for n in old.shape)] = old

    @staticmethod
    def _rows(to: Tensor, old: Tensor) -> Tensor:
        """The part of ``to`` that the small model's channels reach; a bias as a whole."""
        return to[:, : old.shape[1]] if old.ndim == 2 else to
