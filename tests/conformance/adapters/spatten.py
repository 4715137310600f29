"""SpAtten: nothing happens while the cache and the tokens to come fit; else the latest make room for those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.spatten import SpAtten
from foveate.tokens import Entries


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    logits = given["logits"]  # (layers, H, n, n): the queries, with unit vectors as keys
    layers, heads, n = logits.shape[0], logits.shape[1], logits.shape[3]
    sinks, important = int(params["start_size"]), int(params["important_size"])
    recent = int(params["recent_size"])
    coming = int(params["num_coming"])
    if n + coming <= sinks + important + recent:
        return {"kept": torch.arange(n).expand(layers, heads, n)}
    recent -= coming
    keys = torch.eye(n).expand(layers, heads, n, n)
    if recent <= 0:  # no latest ones: they compete with the rest
        method = SpAtten(keep=sinks + important, sinks=sinks, recent=1e-9, variant="code")
    else:
        method = SpAtten(keep=sinks + important + recent, sinks=sinks, recent=recent, variant="code")
    return {"kept": method.reduce(Entries(keys, keys, queries=logits)).keep.view(layers, heads, -1)}
