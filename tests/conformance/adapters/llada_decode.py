"""LLaDA: the fixed plan of steps; the noise of each step is the case's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from denoiser import decode
from torch import Tensor


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    noise = given.get("noise")
    out = decode(
        params,
        given,
        "lowconfidence",
        steps=params["steps"],
        guidance=params.get("cfg_scale", 0.0),
        noise=None if noise is None else lambda step, start, stop: noise[step, :, start:stop],
    )
    return {"sequence": out.ids, "unmask_step": out.filled, "n_forward": torch.tensor(out.report.forwards)}
