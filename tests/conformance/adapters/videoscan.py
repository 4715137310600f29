"""VideoScan: the training mask, or the memory of a stream with a cache that follows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.videoscan import VideoScan
from foveate.parts.carriers import carrier_mask, remember


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _stream(params, given) if "features" in given else _mask(params, given)


def _mask(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    system, text, frames = (int(params[name]) for name in ("system_len", "text_len", "frames"))
    n = int(given["n_tokens"])
    each = (n - system - text) // frames if frames else 1
    frame = torch.arange(frames).repeat_interleave(each)
    rest = torch.full((n - system - len(frame),), frames)
    part = torch.cat([torch.full((system,), -1), frame, rest])
    carrier = torch.zeros(n, dtype=torch.bool)
    carrier[system + each - 1 : system + len(frame) : each] = True
    return {"allowed": carrier_mask(part, carrier)}


def _stream(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The code leaves what the last frame drops in the cache and in its list of frames."""
    x, limit, system = given["features"], int(params["limit"]), int(params["system_len"])
    frames, each, _ = x.shape
    _, gone = remember(x.mean(1), limit)
    listed = remember(x[:-1].mean(1), limit)[0] + [frames - 1]
    sizes = torch.arange(1, frames + 1) - (torch.tensor([*gone[:-1], -1]) >= 0).cumsum(0)
    at = torch.arange(frames * each)
    grid = torch.stack([at // each, at * 0, at % each], -1)[None]
    tokens = Tokens(x.reshape(1, frames * each, -1), grid=grid)
    carriers = VideoScan(memory=limit).reduce(tokens)(tokens.x)[0]
    cached = [*range(system), *(system + f * (each + 1) + each for f in listed)]
    return {
        "dropped": torch.tensor(gone),
        "cache_size": sizes + system,
        "carriers": carriers,
        "kept_frames": torch.tensor(listed),
        "cache": given["keys"][:, cached],
    }
