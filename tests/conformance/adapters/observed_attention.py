"""H2O as an average without recent tokens: the layers of a case are the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Entries
from foveate.cache.h2o import H2O


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    values = given["values"]
    method = H2O(keep=1 - float(params["compression_ratio"]), recent=0.0, average=True)
    entries = Entries(values, values, received=given["attn"].float().sum(-2))
    return {"scores": method.score(entries), "kept": method.reduce(entries).keep.view(*values.shape[:2], -1)}
