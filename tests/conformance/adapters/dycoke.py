"""DyCoke: the thinning of frames, or the set of cache entries read at each decoding step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.dycoke import DyCoke
from foveate.parts.attended import AttendedSet
from foveate.parts.film import Film


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _decode(params, given["attention"]) if "attention" in given else _thin(params, given["features"][None])


def _thin(params: Mapping[str, Any], x: Tensor) -> dict[str, Tensor]:
    size = int(params["tokens_per_frame"])
    at = torch.arange(x.shape[1] // size * size)
    grid = torch.stack([at // size, at * 0, at % size], -1)[None]
    tokens = Tokens(x[:, : len(at)], grid=grid)
    method = DyCoke(drop=float(params["merging_ratio"]), variant="code")
    kept = method.reduce(tokens).keep[0]
    same = method.sameness(tokens, Film(tokens))[0, kept]  # the code lists a thinned frame by it, least alike first
    by = same.argsort(stable=True)
    by = by[(kept[by] // size).argsort(stable=True)]
    return {"tokens": x[0, kept[by]]}


def _decode(params: Mapping[str, Any], attention: Tensor) -> dict[str, Tensor]:
    steps, _, width = attention.shape
    state = AttendedSet(int(params["start"]), int(params["length"]), float(params["p"]), reuse=False)
    keep = torch.zeros(steps, width, dtype=torch.bool)
    updated, similarity = torch.zeros(steps, dtype=torch.bool), torch.zeros(steps)
    for t in range(steps):
        seen = min(width, int(params["prompt_len"]) + 1 + t)
        step = state.step(attention[t, :, :seen])
        updated[t], similarity[t] = step.rebuilt, step.similarity
        if step.rebuilt:
            keep[t, :seen] = step.reads
    return {"keep": keep, "updated": updated, "similarity": similarity}
