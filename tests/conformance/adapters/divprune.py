"""DivPrune: one image, tokens without a batch dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Tokens
from foveate.inputs.divprune import DivPrune


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    method, x = DivPrune(keep=min(1.0, float(params["ratio"]))), given["features"]
    tokens = Tokens(x if x.ndim == 3 else x[None])
    out, picked = method.reduce(tokens), method.pick(tokens)
    answer = {"selected": picked, "kept": out.keep, "tokens": out(tokens.x)}
    return answer if x.ndim == 3 else {name: value[0] for name, value in answer.items()}
