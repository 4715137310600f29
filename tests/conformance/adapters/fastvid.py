"""FastVID: a prompt with a clip in it; frames are described by features from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.inputs.fastvid import FastVID
from foveate.parts.clip import Clip


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, score, start = given["hidden"], given["attention"], int(params["video_start"])
    f, p = score.shape
    cell = torch.arange(f * p)
    where = start + cell
    method = FastVID(
        keep=float(params["retention_ratio"]),
        segments=int(params["c"]),
        tau=float(params["tau"]),
        anchors=float(params["d"]),
        step=int(params["p"]),
        beta=float(params["beta"]),
        variant="code",
    )
    segment = method.segmented(given["frame_global"])
    clip = Clip(x[where], torch.stack([cell // p, 0 * cell, cell % p], -1))
    whole = method.merged(clip, score.flatten(), segment).place(where, len(x))
    return {"hidden": whole(x[None])[0], "keep": whole.keep[0], "segment_sizes": segment.bincount()}
