"""Fast-dLLM: threshold, factor or a fixed plan, with no cache, a prefix cache or a dual cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from denoiser import cache_of, counted, decode
from torch import Tensor

from foveate.diffusion.schedules.factor import Factor
from foveate.diffusion.schedules.lowconfidence import LowConfidence
from foveate.diffusion.schedules.threshold import Threshold


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    schedule: Any = LowConfidence(precise=True)
    if params.get("threshold") is not None:
        schedule = Threshold(params["threshold"])
    elif params.get("factor") is not None:
        schedule = Factor(params["factor"], variant="code")
    cache = cache_of(params.get("function", "generate"))
    return counted(decode(params, given, schedule, cache=cache, steps=params.get("steps")))
