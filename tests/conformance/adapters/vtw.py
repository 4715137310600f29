"""VTW: the withdrawal itself, or the search for its layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.layers.vtw import VTW, divergence, find_layer


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if "full_logits" in given:
        full, withdrawn = given["full_logits"], given["withdrawn_logits"]
        layer = find_layer(full, withdrawn, float(params["eta"]), int(params["first_candidate_layer"]))
        return {"kl": divergence(full, withdrawn), "layer": torch.tensor(layer)}
    hidden, start, n = given["hidden"], int(params["system_tokens"]), int(params["image_tokens"])
    where = torch.arange(start, start + n)
    out = VTW().reduce(Tokens(hidden[:, where])).place(where, hidden.shape[1])
    keep = out.keep if params["pe_type"] == "keep" else torch.arange(out.m).expand(out.b, -1)
    return {"hidden": out(hidden), "position_ids": keep}
