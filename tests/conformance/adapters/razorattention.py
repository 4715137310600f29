"""RazorAttention: scores of heads on a repeated text, which of them count, and the cache of those that do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.razorattention import RazorAttention
from foveate.parts.retrieval_heads import at_least, repeated
from foveate.tokens import Entries


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    layers, heads = given["attn"].shape[:2]
    group = int(params["group_size"])
    echo, induction = (
        s.view(layers, heads // group, group).amax(-1) for s in repeated(given["attn"], int(params["repeat_length"]))
    )
    chosen = [
        at_least(score, round(float(params[f"{name}_head_ratio"]) * score.numel()))
        for name, score in (("echo", echo), ("induction", induction))
    ]
    first = torch.zeros_like(chosen[0])
    with_echo = chosen[0].any(-1).nonzero()
    if len(with_echo):  # the code's union ends with the first layer that has echo heads
        first[with_echo[0, 0]] = chosen[0][with_echo[0, 0]]
    cache = given["cache"].transpose(0, 1)[None]  # (1, g, n, d)
    g = cache.shape[1]
    method = RazorAttention(
        full=0.0,
        local=int(params["local_capacity"]),
        sinks=int(params["sink_size"]),
        compensate=bool(params["use_virtual_token"]),
        gates=(0.0,) * g,
    )
    out = method.reduce(Entries(cache, cache))(cache[0])
    return {
        "echo_score": echo,
        "induction_score": induction,
        "echo_heads": chosen[0],
        "induction_heads": chosen[1],
        "code_retrieval_heads": first | chosen[1],
        "compressed_cache": out.transpose(0, 1),
    }
