"""DuoAttention in another toolkit, which also reports the share of entries removed as if all rows were long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.duoattention import DuoAttention
from foveate.parts.retrieval_heads import full_count, highest
from foveate.tokens import Entries


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    gates, n = given["head_scores"], int(params["n_tokens"])
    layers, g = gates.shape
    sinks, recent, ratio = int(params["sink_size"]), int(params["recent_size"]), float(params["head_compression_ratio"])
    flat = tuple(gates.flatten().tolist())
    method = DuoAttention(full=1 - ratio, sinks=sinks, recent=recent, gates=flat)
    cache = torch.zeros(1, g, n, 1)
    kept = torch.stack([method.reduce(Entries(cache, cache, layer=i, layers=layers)).kept for i in range(layers)])
    full = highest(gates.flatten().clamp(0, 1), full_count(len(flat), 1 - ratio)).view_as(gates)
    removed = (~full).float().mean() * (1 - (sinks + recent) / n)
    return {"streaming_mask": ~full, "keep_mask": kept, "compression_ratio": removed[None]}
