"""ThinK: the layers of a case are the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.think import ThinK


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, d = given["keys"], given["keys"].shape[-1]
    gone = int(d * float(params["key_channel_compression_ratio"]))
    if not (kept := d - gone):  # no method of ours drops everything
        return {"pruned_channels": torch.ones(*keys.shape[:2], d, dtype=torch.bool), "keys": torch.zeros_like(keys)}
    method = ThinK(keep=kept, window=int(params["window_size"]), variant="code")
    entries = Entries(keys, given.get("values", keys), given["queries"], d**-0.5)
    pruned = torch.ones(*keys.shape[:2], d, dtype=torch.bool).scatter(2, method.channels(entries), False)
    return {"pruned_channels": pruned, "keys": method.pack(entries).read()[0]}
