"""PiToMe: one matching, in the form for vision or text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Reduction, Tokens
from foveate.encoder.pitome import PiToMe


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x = given["x"]
    size = given["size"][..., 0] if "size" in given else torch.ones(x.shape[:2])
    method = PiToMe(
        ratio=min(1.0, float(params["ratio"])),
        margin=float(params["margin"]),
        alpha=float(params.get("alpha", 1.0)),
        variant="bsm" if params.get("use_bsm_pitome") else params.get("variant", "vision"),
    )
    tokens = Tokens(x, prefix=int(bool(params.get("class_token"))), metric=given["metric"], size=size)
    match = method.match(tokens)
    out = Reduction.merge(match.into, size).listed(match.order)
    return {
        "merged": out(x),
        "size": out.size(size)[..., None],
        "mean": Reduction.merge(match.into).listed(match.order)(x),
        "pruned": out.gather(x),
        "energy": method.energy(tokens),
        "source": (out.to_dense() != 0).float(),
    }
