"""SlowFast-LLaVA: the slow pathway's tokens, then the fast one's; or a single form of pooling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.parts.aggregate import aggregate, shrunk, slow_frames


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x = given["features"]
    if "slow_frames" not in params:
        mode = next(v for k, v in params.items() if isinstance(v, str))
        return {"tokens": aggregate(x, mode)}
    slow = x[slow_frames(len(x), int(params["slow_frames"]))]
    fast = shrunk(x, int(params["fast_h"]), int(params["fast_w"]))
    return {"tokens": torch.cat([aggregate(slow, params["slow_pool"]), fast])}
