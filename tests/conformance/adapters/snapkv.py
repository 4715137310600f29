"""SnapKV: the layers of a case are the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Entries
from foveate.cache.snapkv import SnapKV


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    left, window = 1 - float(params["compression_ratio"]), int(params["window_size"])
    method = SnapKV(keep=left, window=window, pool=int(params["kernel_size"]))
    keys = given["keys"]
    entries = Entries(keys, given["values"], given["queries"][:, :, -window:], keys.shape[-1] ** -0.5)
    scores = method.score(entries)
    votes = scores[..., : keys.shape[2] - window]
    scores[..., keys.shape[2] - window :] = votes.amax((1, 2), keepdim=True) + 1  # the constant the code pins with
    return {"scores": scores, "kept": method.reduce(entries).keep.view(*keys.shape[:2], -1)}
