"""TDC: which frames are used, where they are cut, and which of them stay whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.tdc import TDC
from foveate.parts.film import Film, segments
from foveate.parts.runs import thinned

MOST = 224


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    frames = thinned(len(given["features"]), MOST)
    x = given["features"][frames]
    count, each = x.shape[:2]
    at = torch.arange(count * each)
    tokens = Tokens(x.reshape(1, count * each, -1), grid=torch.stack([at // each, at * 0, at % each], -1)[None])
    method, film = TDC(cuts=int(params["max_segments"])), Film(tokens)
    cuts = method.cut(method.frame_likeness(tokens.x, film))
    after = cuts[0].nonzero()[:, 0]
    if len(after) == count - 1:  # the code then cuts after the last frame too
        after = torch.arange(count)
    ends = torch.cat([after.new_tensor([0]), after + 1, after.new_tensor([count])])
    key = method.place(segments(cuts))[0] == 0
    return {"frames": frames, "cut_after": after, "segment_sizes": ends.diff(), "key_frames": key.nonzero()[:, 0]}
