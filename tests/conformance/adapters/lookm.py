"""LOOK-M: the code keeps all text, whatever the budget, and cuts the recent entries off before it chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.lookm import LOOKM
from foveate.tokens import Entries


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, values = given["keys"][None], given["values"][None]
    n = keys.shape[2]
    heavy, recent = int(params["hh_size"]), int(params["recent_size"])
    if n <= heavy + recent:
        return {"keys": given["keys"], "values": given["values"]}
    variant = str(params["variant"])
    text_first = "text prior" in variant
    visual = torch.zeros(1, n, dtype=torch.bool)
    for i, start in enumerate(params["image_starts_in_text"]):
        at = int(start) + (int(params["image_tokens"]) - 1) * i
        visual[:, at : at + int(params["image_tokens"])] = True
    text = int((~visual[:, : n - recent]).sum())
    keep = (max(heavy, text) if text_first else heavy) + recent
    merge = next((kind for kind in ("pivot", "weighted") if kind in variant), "none")
    method = LOOKM(keep=keep, recent=recent or 1e-9, text_first=text_first, merge=merge)
    out = method.reduce(Entries(keys, values, visual=visual, received=given["col_attn"][None]))
    return {"keys": out(keys[0]), "values": out(values[0])}
