"""GEAR: the power iteration starts from the recorded matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from foveate.cache.gear import GEAR
from foveate.stores.lowrank import Residual


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, along in (("key", "tokens"), ("value", "channels")):
        method = GEAR(
            bits=int(params["quantize_bit"]),
            group=int(params[f"group_size_{name}"]),
            sparsity=float(params["sparsity"]),
            rank=int(params["rank"]),
            loops=int(params["power_iterations"]),
            variant="code",
        )
        x = given[f"{name}s"][None]
        coder: Residual = replace(method.coder(along, *x.shape[1:]), start=given.get(f"p_init_{name}"))
        bare = replace(coder, rank=0)
        out[f"{name}_out"] = coder.decode(coder.encode(x), x.shape)[0]
        out[f"{name}_sparse_quant"] = bare.decode(bare.encode(x), x.shape)[0]
    return out
