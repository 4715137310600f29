"""D-CoDe: which frames ("n"), or the tokens of given frames, listed frame by frame and by falling norm in each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.inputs.dcode import fold, strongest
from foveate.media.dcode_frames import DCoDeFrames


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x = given["features"]
    if "n" in params:
        method = DCoDeFrames(uniform=float(params["uniform_ratio"]))
        return {"indices": method.pick(x, int(params["n"]), repeats=True)}
    norm = x.norm(dim=-1)
    top = strongest(norm, int(params["top_k"]))
    x, norm = x.gather(1, top[..., None].expand(-1, -1, x.shape[-1])), norm.gather(1, top)
    out, left = fold(x, x, norm, float(params["threshold"]), params["strategy"])
    return {"tokens": out[left], "counts": left.sum(-1).to(torch.int64)}
