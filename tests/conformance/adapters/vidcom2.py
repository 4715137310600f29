"""VidCom2: one clip; "grid" lists what is kept in a layout where each row of a frame ends in a newline that stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.vidcom2 import VidCom2
from foveate.parts.film import Film


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    size = int(params["tokens_per_frame"])
    x = given["features"][None]
    at = torch.arange(x.shape[1])
    frame, place = at // size, at % size
    tokens = Tokens(x, grid=torch.stack([frame, frame * 0, place], -1)[None])
    method = VidCom2(keep=float(params["ratio"]), variant="code")
    out, film = method.reduce(tokens), Film(tokens)
    found = method.likeness(tokens, film)
    keep = out.keep[0]
    counts = torch.bincount(frame[keep], minlength=film.frames)
    return {
        "keep": _with_newlines(keep, size, film.frames) if params.get("mapper") == "grid" else keep,
        "counts": counts,
        "scales": found.shares[0],
        "video_score": film.laid(found.video)[0],
        "frame_score": film.laid(found.frame)[0],
        "tokens": out(x)[0],
    }


def _with_newlines(keep: Tensor, size: int, frames: int) -> Tensor:
    """Positions where a frame's rows are one longer: of each frame those kept, then all its line ends."""
    side = round(size**0.5)
    ends = torch.arange(side) * (side + 1) + side
    rows = []
    for f in range(frames):
        mine = keep[keep // size == f] % size
        rows += [f * side * (side + 1) + at for at in (mine // side * (side + 1) + mine % side, ends)]
    return torch.cat(rows)
