"""A grown model says what the small one says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from foveate import load
from foveate.bench.grown import Shape, grow
from foveate.errors import InputError
from model_folders import make

SHAPE = Shape(hidden=96, layers=4, heads=6, kv_heads=2, head_dim=32, ffn=160)


def _small(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    settings = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 61,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**settings, tie_word_embeddings=True)).eval()
    return Qwen2ForCausalLM(Qwen2Config(**settings, tie_word_embeddings=False)).eval()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_the_logits_are_those_of_the_small_model(kind: str) -> None:
    small = _small(kind)
    big = grow(small, SHAPE)
    assert sum(p.numel() for p in big.parameters()) > 4 * sum(p.numel() for p in small.parameters())
    ids = torch.randint(0, 61, (2, 19), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(big(ids).logits, small(ids).logits, rtol=1e-4, atol=1e-4)
    said = [m.generate(ids, max_new_tokens=12, do_sample=False) for m in (small, big)]
    assert torch.equal(*said)


def test_a_picture_is_answered_alike() -> None:
    loaded = load("lab/image")
    noise = np.random.default_rng(0).integers(0, 255, (168, 168, 3), np.uint8)
    inputs = loaded.prompt([{"role": "user", "content": [
        {"type": "image", "image": Image.fromarray(noise)}, {"type": "text", "text": "what color is the circle?"}
    ]}]).inputs  # fmt: skip
    big = grow(loaded.model, Shape(hidden=320, layers=6, heads=10, kv_heads=5, head_dim=64, ffn=600))
    small = loaded.model.float()
    with torch.no_grad():
        torch.testing.assert_close(big.float()(**inputs).logits, small(**inputs).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["qwen2_5_vl"])
def test_rotary_positions_of_three_parts_stay(family: str, tmp_path: Path) -> None:
    loaded = load(make(family, tmp_path))
    noise = np.random.default_rng(0).integers(0, 255, (112, 84, 3), np.uint8)
    inputs = loaded.prompt([{"role": "user", "content": [
        {"type": "image", "image": Image.fromarray(noise)}, {"type": "text", "text": "what is it?"}
    ]}]).inputs  # fmt: skip
    text = loaded.model.config.get_text_config()
    head = text.hidden_size // text.num_attention_heads
    group = text.num_attention_heads // text.num_key_value_heads
    shape = Shape(8 * group * head, 5, 8 * group, 8, head, 2 * text.intermediate_size)
    with torch.no_grad():
        torch.testing.assert_close(
            grow(loaded.model, shape)(**inputs).logits, loaded.model(**inputs).logits, rtol=1e-3, atol=1e-4
        )
    with pytest.raises(InputError, match="must be the model's"):
        grow(loaded.model, replace(shape, head_dim=2 * head, hidden=2 * shape.hidden))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden": 16}, "'hidden' of the shape is 16"),
        ({"head_dim": 20}, "must be a multiple of"),
        ({"heads": 2}, "each key head"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(change: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        grow(_small("llama"), Shape(**{**vars(SHAPE), **change}))
