"""Unified layer skipping: transformers' BLOOM with the case's weights; layers that are not reserved hand on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM

from foveate.decode.unified_layer_skip import UnifiedLayerSkip, reserved


def run(
    params: Mapping[str, Any], given: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    weights = {k[2:]: v for k, v in given.items() if k.startswith("w.")}
    layers, heads = int(params["n_layer"]), int(params["heads"])
    vocabulary, hidden = weights["transformer.word_embeddings.weight"].shape
    config = BloomConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        n_layer=layers,
        n_head=heads,
        layer_norm_epsilon=float(params["layer_norm_epsilon"]),
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model = BloomForCausalLM(config).eval()
    model.load_state_dict(weights)
    run = UnifiedLayerSkip(speedup=float(params["target_speedup"])).reserved(layers)
    ids, said = given["prompt"], []
    pairs = given["pairs"].tolist()
    new = int(params.get("max_new_tokens", shapes["logits"][0]))  # a case says it by how many logits it lists
    out = model(ids, use_cache=True)
    for i, block in enumerate(model.transformer.h):
        if i not in run:
            block.forward = _hand_on(i, heads, hidden // heads)
    cache = out.past_key_values
    for step in range(new):
        said.append(out.logits[0, -1])
        ids = torch.cat([ids, said[-1].argmax()[None, None]], 1)
        if step + 1 < new:
            out = model(ids[:, -1:], past_key_values=cache, use_cache=True)
    return {
        "reserved": _mask(run, layers),
        "reserved_pairs": torch.stack([_mask(reserved(n, s), max(p[0] for p in pairs)) for n, s in pairs]),
        "sequence": ids[0],
        "logits": torch.stack(said),
    }


def _mask(chosen: tuple[int, ...], n: int) -> Tensor:
    mask = torch.zeros(n, dtype=torch.bool)
    mask[list(chosen)] = True
    return mask


def _hand_on(i: int, heads: int, size: int) -> Any:
    def forward(x: Tensor, layer_past: Any = None, **more: Any) -> tuple[Tensor, None]:
        nothing = x.new_zeros(x.shape[0], heads, x.shape[1], size)
        layer_past.update(nothing, nothing, i)
        return x, None

    return forward
