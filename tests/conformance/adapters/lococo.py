"""LoCoCo: the code lists the whole entries first and the slots behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.lococo import LoCoCo
from foveate.tokens import Entries


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, values = given["keys"][None], given["values"][None]
    mem = min(int(params["mem_size"]), keys.shape[2])
    method = LoCoCo(keep=mem, local=int(params["local_len"]), whole=float(params["hh_keep_rate"]))
    entries = Entries(keys, values, received=given["scores"][None])
    convs = [(given[f"conv{i}_w"], given.get(f"conv{i}_b")) for i in range(int(params["n_convlayer"]))]
    name = params.get("hidden_act")
    act = getattr(torch.nn.functional, str(name)) if name else None
    out, dropped = method.blended(entries, convs, float(params["normalizer"]), act), method.reduce(entries)
    mixed = out.to_dense().count_nonzero(-1) > 1
    order = mixed.to(torch.uint8).argsort(dim=-1, stable=True)[..., None]
    return {
        "keys": out(keys[0]).gather(1, order.expand(-1, -1, keys.shape[3])),
        "values": out(values[0]).gather(1, order.expand(-1, -1, values.shape[3])),
        "drop_keys": dropped(keys[0]),
        "drop_values": dropped(values[0]),
    }
