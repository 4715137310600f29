"""LongVLM: segments of "clips" frames, merged by a given number of tokens in each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate.inputs.longvlm import LongVLM
from foveate.parts.stepwise import stepwise


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x = given["features"]
    x = x.reshape(len(x) // int(params["clips"]), -1, x.shape[-1])
    steps, n = [], x.shape[1]
    for r in params["r_list"]:
        steps.append(min(int(r), n // 2))
        n -= steps[-1]
    return {"tokens": stepwise(x, steps, heads=LongVLM().heads, carry=True)(x).flatten(0, 1)}
