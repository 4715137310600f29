"""LLaVolta: the images of each prompt pooled one by one; text keeps its positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Reduction, Tokens
from foveate.layers.llavolta import LLaVolta


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    hidden, n = given["hidden"], int(params["visual_length"])
    method = LLaVolta(stride=int(params["stride"]), variant="code")
    out, positions = [], []
    for row, starts in zip(hidden[:, None], params["image_starts"]):
        parts, at = [], 0
        for start in sorted(s for s in starts if s >= 0):
            image = method.reduce(Tokens(row[:, start : start + n]))
            parts += [Reduction.identity(1, start - at), image]
            at = start + n
        whole = Reduction.cat([*parts, Reduction.identity(1, hidden.shape[1] - at)])
        means = whole(torch.arange(hidden.shape[1])[None, :, None].double())[..., 0]
        middle = whole.keep != means  # the code takes the mean of the positions in half precision, then rounds down
        out.append(whole(row))
        positions.append(torch.where(middle, means.half().long(), whole.keep))
    return {"hidden": torch.cat(out), "position_ids": torch.cat(positions)}
