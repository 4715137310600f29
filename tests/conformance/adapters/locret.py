"""Locret: the cache just before the last tokens of the prompt are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.locret import Locret
from foveate.tokens import Entries


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    score = given["scores"].transpose(1, 2)  # (layers, g, n)
    layers, g, n = score.shape
    local, budget = int(params["local_len"]), min(int(params["budget_size"]), n - int(params["local_len"]))
    method = Locret(
        keep=budget + local, chunk=int(params["chunk_size"]), stable=int(params["stabilizers"]), local=local
    )
    cache = torch.zeros(layers, g, n, 1)
    kept = method.cut(score, Entries(cache, cache)).keep.view(layers, g, -1)
    return {"kept": kept[..., :budget]}
