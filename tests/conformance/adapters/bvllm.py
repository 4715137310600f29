"""B-VLLM: frames folded ("tau"), or the tokens of each frame merged down to "target"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Reduction
from foveate.inputs.bvllm import BVLLM
from foveate.parts.stepwise import long_halvings, stepwise


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if "target" in params:
        x = given["tokens"]
        return {"tokens": stepwise(x, long_halvings(x.shape[1], int(params["target"])))(x)}
    x = given["features"]
    into = BVLLM(threshold=float(params["tau"]), variant="code").fold(
        given["metric"][None], torch.full((1, len(x)), x[0].shape[0], dtype=torch.long)
    )
    return {"frames": Reduction.merge(into)(x[None])[0]}
