"""UNComp: entropy of queries, and eviction from recorded attention of the window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.uncomp import UNComp
from foveate.parts.matrix_entropy import matrix_entropy
from foveate.parts.retrieval_heads import highest
from foveate.tokens import Entries


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    entropy = matrix_entropy(given["queries"], int(params["svd_rank"]))
    heads, n = len(entropy), given["queries"].shape[1]
    upper = highest(entropy, heads // 2)
    method = UNComp(
        keep=int(params["max_capacity_prompt"]),
        window=int(params["window_size"]),
        pool=int(params["kernel_size"]),
        rank=int(params["svd_rank"]),
        variant="code",
    )
    keys = torch.eye(n).expand(1, heads, n, n)
    entries = Entries(keys, keys, queries=given["attn_window"].clamp(min=1e-30).log()[None])
    out = method.cut(method.score(entries), upper[None], entries)
    return {
        "entropy": entropy,
        "high_heads": upper,
        "kept_high": torch.stack([out.row(int(h)).keep[0] for h in upper.nonzero()]),
        "kept_low": torch.stack([out.row(int(h)).keep[0] for h in (~upper).nonzero()]),
        "capacities": torch.tensor(method.sizes(n, heads)),
    }
