"""TS-LLaVA: the thumbnail as a picture, or encoded thumbnail and frames, of which tokens are sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.parts.spaced import spaced
from foveate.parts.thumbnail import sides, thumbnail


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if "num_grid" in params:
        count = int(params["num_grid"])
        picture = thumbnail(given["frames"], count, int(params.get("size", 336)))
        return {"thumbnail": picture, "grid": torch.tensor(sides(count))}
    flat = given["tokens"].flatten(0, 1)
    return {"tokens": torch.cat([given["thumb"], flat[spaced(len(flat), int(params["num_samples"]))]])}
