"""DHSA: chunks from predicted ends, and how many tokens of each chunk every block of queries takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.parts.sparse_chunks import boundaries, chunk_similarity, pick_tokens


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    theta, window = params.get("theta"), params.get("sliding_window")
    block = int(params["q_block"])
    bounds = boundaries(given["boundary_ratio"], int(params["max_chunks"]), theta, int(params.get("nms_window") or 0))
    q, k = given["queries"], given["keys"]
    if short := -q.shape[1] % block:
        q = torch.nn.functional.pad(q, (0, 0, 0, short))
    score = chunk_similarity(q, k, bounds, block, str(params["pooling"]), int(params["q_len"]))
    picked = pick_tokens(score, bounds, block, int(params["topk_tokens"]), int(params["local_tokens"]), window)
    chunk = torch.searchsorted(bounds, picked, right=True) - 1
    counts = torch.stack([row.bincount(minlength=len(bounds) - 1) for row in chunk])
    return {"boundaries": bounds, "chunk_counts": counts}
