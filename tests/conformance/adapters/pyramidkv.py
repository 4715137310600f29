"""PyramidKV, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.pyramidkv import PyramidKV
from foveate.parts.votes import crown, votes


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, window, pool = given["keys"], int(params["window_size"]), int(params["kernel_size"])
    left, layers = 1 - float(params["compression_ratio"]), len(keys)
    method = PyramidKV(keep=left, window=window, pool=pool, beta=params["beta"])
    scores, out = [], {}
    for i in range(layers):
        k, q = keys[i : i + 1], given["queries"][i : i + 1, :, -window:]
        entries = Entries(k, given["values"][i : i + 1], q, k.shape[-1] ** -0.5, layer=i, layers=layers)
        scores.append(crown(votes(entries, "window", window, pool), entries.n))
        out[f"kept_layer{i}"] = method.reduce(entries).keep
    return {"scores": torch.cat(scores), **out}
