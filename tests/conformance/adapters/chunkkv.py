"""ChunkKV on SnapKV's score, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.chunkkv import ChunkKV
from foveate.parts.votes import crown, votes


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, window, pool = given["keys"], int(params["window_size"]), int(params["kernel_size"])
    left, chunk = 1 - float(params["compression_ratio"]), int(params["chunk_length"])
    method = ChunkKV(keep=left, chunk=chunk, window=window, pool=pool, variant="code")
    scores, out = [], {}
    for i in range(len(keys)):
        k = keys[i : i + 1]
        entries = Entries(k, k, given["queries"][i : i + 1, :, -window:], k.shape[-1] ** -0.5)
        scores.append(crown(votes(entries, "window", window, pool), entries.n))
        out[f"kept_layer{i}"] = method.reduce(entries).keep
    return {"scores": torch.cat(scores), **out}
