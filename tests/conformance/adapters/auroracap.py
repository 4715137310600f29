"""AuroraCap: CLIP blocks around the method; the states after each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from blocks import attend, gelu_tanh, mlp, quick_gelu
from torch import Tensor
from torch.nn.functional import gelu

from foveate import Tokens
from foveate.encoder.auroracap import AuroraCap

EPS = 1e-5
ACTS = {"quick_gelu": quick_gelu, "gelu": gelu, "gelu_tanh": gelu_tanh, "gelu_pytorch_tanh": gelu_tanh}


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, layers = given["x"], int(params["layers"])
    method = AuroraCap(r=int(params["r"]), variant="code")
    size = torch.ones(x.shape[:2])
    states = {}
    for i in range(layers):
        start = f"w.layers.{i}."
        w = {".".join(k.split(".")[-2:]): v for k, v in given.items() if k.startswith(start)}
        out, keys = attend(x, w, int(params["heads"]), EPS, size.log() if method.proportional else None)
        step = method.reduce(Tokens(x + out, prefix=1, metric=keys, size=size, layer=i, layers=layers))
        x, size = mlp(step(x + out), w, EPS, ACTS[params.get("act", "quick_gelu")]), step.size(size)
        states[f"x_{i}"] = x
    return states
