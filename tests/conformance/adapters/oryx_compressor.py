"""Oryx's compressor: the learned projections are applied here; each frame is a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.oryx_compressor import OryxCompressor

STRIDES = {"video": 2, "video_long": 4}


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, high, wide = given["x"], int(params["height"]), int(params["width"])
    stride = STRIDES.get(params["forward_type"], 1)
    at = torch.arange(high * wide)
    grid = torch.stack([at * 0, at // wide, at % wide], -1).expand(x.shape[0], -1, -1)
    q, k = (x @ given["w" + name].T + given["b" + name] for name in "qk")
    out = OryxCompressor(stride=stride, variant="code").mix(Tokens(x, grid=grid), q, k)
    return {"tokens": out(x), "size": torch.tensor([high // stride, wide // stride])}
