"""CriticalKV on SnapKV's score: the layers of a case are the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Entries
from foveate.cache.criticalkv import CriticalKV


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, queries, window = given["keys"], given["queries"], int(params["window_size"])
    method = CriticalKV(
        keep=1 - float(params["compression_ratio"]),
        first=float(params["first_stage_ratio"]),
        epsilon=float(params["epsilon"]),
        window=window,
        pool=int(params["kernel_size"]),
    )
    output = given["Wo"].mT.unflatten(1, (queries.shape[1], -1))
    entries = Entries(keys, given["values"], queries[:, :, -window:], keys.shape[-1] ** -0.5, output=output)
    return {"scores": method.score(entries), "kept": method.reduce(entries).keep.view(*keys.shape[:2], -1)}
