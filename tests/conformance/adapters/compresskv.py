"""CompressKV, layer by layer; heads and importance are the case's own measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.compresskv import CompressKV
from foveate.parts.layer_budgets import layer_budgets


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, window = given["keys"], int(params["window_size"])
    layers, mean = len(keys), int(params["avg_budget_per_layer"])
    first = min(int(params["first_k"]), given["head_rank"].shape[1])
    importance = tuple(given["layer_importance"].tolist())
    budgets = layer_budgets(importance, mean * layers, int(params["min_tokens"]), int(params["max_tokens"]))
    out = {"budget": torch.tensor(budgets)}
    for i, keep in enumerate(budgets):
        method = CompressKV(
            keep=keep,
            window=window,
            pool=int(params["kernel_size"]),
            pooling=params["pooling"].removesuffix("pool"),
            heads=tuple(given["head_rank"][:, :first].flatten().tolist()),
            first=first,
        )
        k, q = keys[i : i + 1], given["queries"][i : i + 1, :, -window:]
        entries = Entries(k, k, q, k.shape[-1] ** -0.5, layer=i, layers=layers)
        out[f"kept_layer{i}"] = method.reduce(entries).keep[0]
    return out
