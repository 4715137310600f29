"""CSKV: features that are projected already, heads one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.cskv import CSKV
from foveate.stores.stream import Stream


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for side, bits in (("keys", params["k_bits"]), ("values", params["v_bits"])):
        method = CSKV(bits=int(bits), window=int(params["q_window_size"]), variant="code")
        x = given[f"compressed_{side}"][:, None]  # a head is a row: a value's scale is that of one head
        stream = Stream(x, method.coder(side), step=method.window)
        out[f"{side}_quant"] = stream.read()[:, 0, : stream.coded]
        out["n_full_window"] = torch.tensor([stream.coded])
    return out
