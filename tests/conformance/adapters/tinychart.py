"""TinyChart: SigLIP blocks around the method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from blocks import attend, gelu_tanh, mlp
from torch import Tensor

from foveate import Reduction, Tokens
from foveate.encoder.tinychart import TinyChart

EPS = 1e-6


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, layers = given["x"], int(params["layers"])
    method = TinyChart(r=int(params["r"]), variant="code")
    size = torch.ones(x.shape[:2])
    whole = Reduction.identity(*x.shape[:2])
    for i in range(layers):
        w = _weights(given, i)
        out, keys = attend(x, w, int(params["num_heads"]), EPS, size.log())
        step = method.reduce(Tokens(x + out, metric=keys, size=size, layer=i, layers=layers))
        x, size, whole = mlp(step(x + out), w, EPS, gelu_tanh), step.size(size), whole.then(step)
    return {"tokens": x, "size": size[..., None], "source": (whole.to_dense() != 0).float()}


def _weights(given: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    """The weights of block i: "self_attn_q_proj_weight" -> "q_proj.weight"."""
    found = {}
    for name, value in given.items():
        if name.startswith(f"l{i}_"):
            short = name.removeprefix(f"l{i}_").removeprefix("self_attn_").removeprefix("mlp_")
            found[".".join(short.rsplit("_", 1))] = value
    return found
