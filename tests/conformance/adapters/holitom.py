"""HoliTom: a whole clip before the LLM, or the merging inside it.

The code lists the tokens of each window together: still ones, then those of each frame, selected ones before clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.holitom import HoliTom
from foveate.layers.holitom_merge import HoliTomMerge


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _clip(params, given) if "features" in given else _inside(params, given)


def _clip(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x = given["features"]
    f, p, _ = x.shape
    cell = torch.arange(f * p)
    wide = int(p**0.5)
    frame, place = cell // p, cell % p
    grid = torch.stack([frame, place // wide, place % wide], -1)
    method = HoliTom(
        keep=float(params["retain_ratio"]),
        tau=float(params["tau"]),
        window=int(params["max_window_size"]),
        clusters=float(params["D"]),
        neighbours=int(params["K"]),
        beta=float(params["beta"]),
        plain=not params.get("use_beta", True),
        variant="code",
    )
    parts = method.parts(x.flatten(0, 1), grid, given["attention"].flatten())
    keep = parts.map.keep[0]
    window = parts.segment[frame[keep]]
    count = int(parts.segment[-1]) + 1
    sizes = parts.segment.bincount(minlength=count)
    first = sizes.cumsum(0) - sizes
    out = parts.map(x.flatten(0, 1)[None])[0]
    newline = next((v.flatten() for k, v in given.items() if "newline" in k), None)
    if newline is None:
        moving = ~parts.still[keep]
        key = (((window * 2 + moving) * f + frame[keep] * moving) * 2 + ~parts.seen[keep]) * f * p + keep
        out = out[key.argsort()]
    else:  # in line, and a line end after every row that is left
        row = grid[keep, 0] * wide + grid[keep, 1]
        listed = []
        for i, token in enumerate(out):
            listed += [token, newline] if i + 1 == len(out) or row[i] != row[i + 1] else [token]
            window = window if i + 1 < len(out) and row[i] == row[i + 1] else torch.cat([window, window[i : i + 1]])
        out = torch.stack(listed)
    return {
        "segments": torch.stack([first, first + sizes - 1], -1),
        "tokens": out,
        "adjusted_ratio": torch.tensor(parts.ratio, dtype=torch.float32),
        "segment_counts": window.bincount(minlength=count),
    }


def _inside(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, start, n = given["hidden"], int(params["start"]), int(params["length"])
    where = torch.arange(start, start + n)
    method = HoliTomMerge(keep=1 - float(params["r"]))
    tokens = Tokens(x[:, where], last_attention=given["attention"][:, :, -1, where])
    whole = method.reduce(tokens).place(where, x.shape[1])
    return {"hidden": whole(x), "keep": whole.keep[0]}
