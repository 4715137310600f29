"""AdaKV on SnapKV's score: the layers of a case are the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Entries
from foveate.cache.adakv import AdaKV
from foveate.parts.votes import crown, votes


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, window, pool = given["keys"], int(params["window_size"]), int(params["kernel_size"])
    left, safe = 1 - float(params["compression_ratio"]), float(params["alpha_safeguard"])
    method = AdaKV(keep=left, safe=safe, window=window, pool=pool)
    entries = Entries(keys, keys, given["queries"][:, :, -window:], keys.shape[-1] ** -0.5)
    scores = crown(votes(entries, "window", window, pool), entries.n)
    return {"scores": scores, "keep_mask": method.reduce(entries).kept.view(keys.shape[:3])}
