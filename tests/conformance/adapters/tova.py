"""TOVA: the layers of a case are the rows of a batch; its last queries ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Entries
from foveate.cache.tova import TOVA


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys = given["keys"]
    method = TOVA(keep=1 - float(params["compression_ratio"]))
    entries = Entries(keys, given["values"], given["queries"][:, :, -1:], keys.shape[-1] ** -0.5)
    scores = method.score(entries)
    scores[..., -1] = scores[..., :-1].amax((1, 2))[:, None] + 1  # the constant the code pins with
    return {"scores": scores, "kept": method.reduce(entries).keep.view(*keys.shape[:2], -1)}
