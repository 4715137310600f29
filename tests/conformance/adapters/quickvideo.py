"""QuickVideo: one group of frames in one layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.quickvideo import QuickVideo
from foveate.parts.kv_scores import asked

NAMES = {
    "key_norms_small": "small_keys",
    "key_norms": "large_keys",
    "vector_norms": "large_values",
    "key_weighted_vector_norms": "keys_by_values",
    "key_norms_small_deduplication": "small_keys_apart",
    "query_attention_weights": "asked",
    "query_attention_weights_by_value_norm": "asked_by_values",
}


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, values, query = given["keys"][None], given["values"][None], given.get("query")
    n, scaling = keys.shape[2], keys.shape[-1] ** -0.5
    out = {}
    window = 1
    if query is not None:
        query, window = query[None], query.shape[1]
        out["attention"] = asked(query, keys, scaling, torch.zeros(1, n, dtype=torch.long), 1)[0]
    method = QuickVideo(keep=int(params["keep"]), group=max(1, n), score=NAMES[params["score"]], window=window)
    keep = method.reduce(Entries(keys, values, query, scaling)).keep[0]
    return {**out, "keep": keep, "keys": given["keys"][:, keep], "values": given["values"][:, keep]}
