"""QuoTA: given scores, the authors' counts and rectangles; frames that get nothing vanish."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.inputs.quota import assigned, rectangle
from foveate.parts.resample import resized
from foveate.parts.spaced import stepped
from foveate.parts.stepwise import halvings, stepwise


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, version = given["features"], params["version"]
    score = (given["scores"].double() * float(params.get("scale", 100))) ** float(params.get("power", 2))
    total = int(params["total"]) * int(params["max_token"])
    counts = assigned(score, total, None if version == "v1" else x.shape[1])
    out, sizes = [], []
    for frame, count in zip(x, counts):
        if count <= 0:
            continue
        tokens, size = _scaled(frame, count, version)
        out.append(tokens)
        sizes.append(size)
    return {"tokens": torch.cat(out), "sizes": torch.tensor(sizes)}


def _scaled(frame: Tensor, count: int, version: str) -> tuple[Tensor, tuple[int, int]]:
    if version in ("v1", "v2"):
        side, new = math.isqrt(len(frame)), rectangle(count)
        return resized(frame, (side, side), new, "bilinear" if version == "v1" else "area"), new
    if version == "v3":
        frame = frame[stepped(len(frame), count)]
    else:
        frame = stepwise(frame[None], halvings(len(frame), count))(frame[None])[0]
    return frame, (len(frame), 1)
