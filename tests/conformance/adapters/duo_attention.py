"""DuoAttention: the full heads of a model, the training mask, and a streaming head through prefill and decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.duoattention import DuoAttention
from foveate.parts.retrieval_heads import streaming_mask
from foveate.tokens import Entries


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    gates, n = given["head_scores"], int(params["n_tokens"])
    layers, g = gates.shape
    sinks, recent = int(params["sink_size"]), int(params["recent_size"])
    share = min(1.0, max(0.0, 1 - float(params["sparsity"])))
    method = DuoAttention(
        full=share, sinks=sinks, recent=recent, gates=tuple(gates.flatten().tolist()), rule="quantile"
    )
    long = torch.zeros(1, g, sinks + recent + 1, 1)  # long enough that a streaming head loses something
    rows = [method.reduce(Entries(long, long, layer=i, layers=layers)) for i in range(layers)]
    full = torch.stack([r.lengths == r.n for r in rows])
    streaming = DuoAttention(full=0.0, sinks=sinks, recent=recent, gates=(0.0,))
    held = [_cut(streaming, torch.arange(n))]
    for new in range(n, n + int(params["decode_steps"])):
        held.append(_cut(streaming, torch.cat([held[-1], torch.tensor([new])])))
    return {
        "full_heads": full,
        "streaming_mask": streaming_mask(-(-n // 8) * 8, sinks, recent),
        "cache_after_prefill": held[0],
        "cache_after_decode": held[-1],
        "sparsity": 1 - full.float().mean()[None],
    }


def _cut(method: DuoAttention, positions: Tensor) -> Tensor:
    cache = torch.zeros(1, 1, len(positions), 1)
    return positions[method.reduce(Entries(cache, cache)).keep[0]]
