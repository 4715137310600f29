"""EVS: one clip; the positions of what is left are read off its cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.evs import EVS


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    merge = int(params.get("spatial_merge_size", 1))
    frames, rows, cols = int(params["grid_t"]), int(params["grid_h"]) // merge, int(params["grid_w"]) // merge
    cells = torch.cartesian_prod(torch.arange(frames), torch.arange(rows), torch.arange(cols)).view(-1, 3)
    x = given["features"].reshape(1, len(cells), -1)
    left = int(len(cells) * (1 - float(params["q"])))
    out = EVS(keep=max(1, left), whole=True).reduce(Tokens(x, grid=cells[None]))
    kept = cells[out.keep[0]]
    pace = params.get("tokens_per_second", 1.0) * params.get("seconds_per_grid", 1.0)
    time = (kept[:, 0].double() * pace).long()
    place = torch.stack([time, kept[:, 1], kept[:, 2], torch.full_like(time, cols)], -1)
    return {"mask": out.kept[0], "kept": out(x)[0], "mrope": place}
