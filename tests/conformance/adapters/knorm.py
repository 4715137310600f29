"""Knorm: the layers of a case are the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Entries
from foveate.cache.knorm import Knorm


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys = given["keys"]
    method = Knorm(keep=1 - float(params["compression_ratio"]))
    entries = Entries(keys, given["values"])
    return {"scores": method.score(entries), "kept": method.reduce(entries).keep.view(*keys.shape[:2], -1)}
