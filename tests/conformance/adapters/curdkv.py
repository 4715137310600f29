"""CurDKV: the layers of a case are the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.curdkv import CurDKV

NAMES = {"kv_product": "product", "kv_avg": "mean", "key": "keys", "value": "values"}


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, ratio = given["keys"], float(params["compression_ratio"])
    asked, local = str(params["leverage_type"]), bool(params["use_local_approximation"])
    method = CurDKV(
        keep=1 - ratio,
        sinks=int(params["num_sinks"]),
        leverage=NAMES.get(asked, asked),
        local=local,
        window=int(params["local_window_size"]),
        rank=20 if params.get("use_random_leverage") else None,
    )
    entries = Entries(keys, given["values"])
    kept = method.reduce(entries).keep.view(*keys.shape[:2], -1)
    if ratio == 0:  # the cache is left alone and nothing is scored
        kept = torch.arange(keys.shape[2]).expand(*keys.shape[:2], -1)
    return {"scores": method.importance(entries), "kept": kept}
