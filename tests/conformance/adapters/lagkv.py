"""LagKV: the layers of a case are the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Entries
from foveate.cache.lagkv import LagKV


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, left = given["keys"], 1 - float(params["compression_ratio"])
    across = bool(params["cross_scoring"])
    method = LagKV(keep=left, sinks=int(params["n_sink"]), lag=int(params["lag_size"]), across=across)
    entries = Entries(keys, given["values"])
    return {"scores": method.score(entries), "kept": method.reduce(entries).keep.view(*keys.shape[:2], -1)}
