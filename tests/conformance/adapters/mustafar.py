"""Mustafar: the pruned entries are read back from the packed store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Entries
from foveate.cache.mustafar import Mustafar


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    method = Mustafar(
        sparsity=float(params["k_sparsity"]),
        value_sparsity=float(params["v_sparsity"]),
        recent=int(params["residual_length"]),
        variant="code",
    )
    keys, values = method.pack(Entries(given["keys"][None], given["values"][None])).read()
    return {"keys": keys[0], "values": values[0]}
