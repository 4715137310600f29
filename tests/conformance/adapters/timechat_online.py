"""TimeChat-Online: frames inside a prompt, found by the time of their tokens; colours come as two pictures a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.timechat_online import TimeChatOnline
from foveate.parts.film import Film

START, END = 100, 101


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    hidden, positions, ids = given["hidden"], given["positions"], given["ids"]
    depth = (ids == START).long().cumsum(0) - (ids == END).long().cumsum(0)
    where = ((depth > 0) & (ids != START)).nonzero()[:, 0]
    keep = torch.ones(len(ids), dtype=torch.bool)
    if len(where):
        keep[where] = ~_dropped(params, given, where)
    dropped = torch.tensor([int((~keep).sum()), len(where)])
    return {"keep": keep, "hidden": hidden[keep], "positions": positions[:, keep], "dropped": dropped}


def _dropped(params: Mapping[str, Any], given: Mapping[str, Tensor], where: Tensor) -> Tensor:
    """Of the visual tokens at these positions, (n,) bool."""
    times, frame = given["positions"][0, where].unique(return_inverse=True)
    size = len(where) // len(times)
    place = torch.arange(len(where)) % size  # frames are compared token by token, in order
    grid = torch.stack([frame, torch.zeros_like(frame), place], -1)[None]
    threshold, metric = float(params["threshold"]), params["metric"]
    first = last = None
    if metric == "pixel":
        first, last = (given["pixels"][:, i].flatten(0, 1)[None, :, :, None] * 255 for i in (0, -1))
    tokens = Tokens(given["hidden"][None, where], grid=grid, pixels=last)
    if params.get("absolute", True) is not False:
        limit = {"still": threshold} if metric == "pixel" else {"alike": threshold}
        method = TimeChatOnline(metric=metric, **limit)
    else:  # the same number of every frame but the first
        method = TimeChatOnline(metric=metric, keep=len(where) - (len(times) - 1) * int(size * threshold))
    film = Film(tokens)
    return method.dropped(tokens, film, method.sameness(tokens, film, first))[0]
