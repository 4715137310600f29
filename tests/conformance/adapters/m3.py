"""M3: a square grid, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.m3 import M3


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x = given["x"]
    at = torch.arange(x.shape[1])
    side = round(x.shape[1] ** 0.5)
    grid = torch.stack([at * 0, at // side, at % side], -1).expand(x.shape[0], -1, -1)
    return {"tokens": M3(scale=int(params["scale"]), variant="code").reduce(Tokens(x, grid=grid))(x)}
