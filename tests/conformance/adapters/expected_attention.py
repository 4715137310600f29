"""Expected Attention: the layers of a case are the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.expectedattention import ExpectedAttention


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, sinks = given["keys"], int(params["n_sink"])
    method = ExpectedAttention(
        keep=1 - float(params["compression_ratio"]),
        future=int(params["n_future_positions"]),
        sinks=sinks,
        covariance=bool(params["use_covariance"]),
        norms=bool(params["use_vnorm"]),
        epsilon=float(params["epsilon"]),
    )
    entries = Entries(
        keys,
        given["values"],
        scaling=keys.shape[-1] ** -0.5,
        raw_queries=given["queries_prerope"],
        rotary=given["inv_freq"].expand(len(keys), -1),
    )
    scores = method.score(entries)
    pins = scores.amax((1, 2), keepdim=True) + 1  # the constant the code pins with
    scores = torch.cat([pins.expand(-1, keys.shape[1], sinks), scores], -1)
    return {"scores": scores, "kept": method.reduce(entries).keep.view(*keys.shape[:2], -1)}
