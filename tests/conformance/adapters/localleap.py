"""LocalLeap: anchors and their neighbours; early_stop ends a row once a complete block holds the end token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from denoiser import counted, decode
from torch import Tensor

from foveate.diffusion.schedules.localleap import LocalLeap


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    relaxed = params.get("relaxed_threshold")
    high = params["threshold"]
    schedule = LocalLeap(high, high if relaxed is None else relaxed, params.get("radius", 4))
    stop = "block" if params.get("early_stop") else "none"
    return counted(decode(params, given, schedule, stop=stop, eos_id=params.get("eos_id")))
