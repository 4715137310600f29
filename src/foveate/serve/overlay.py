"""What was kept, for a page to draw: small frames and one character for each of their cells."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL.Image import Image

from ..drawing import slots
from ..prompt import Prompt
from ..report import Kept

SIDE, MOST = 320, 128  # longest side of a frame that is sent, and frames at most


def overlay(prompt: Prompt, decisions: Sequence[Kept]) -> list[dict[str, Any]]:
    """Every image and video whose tokens form a grid.

    Each: kind; grid [t, h, w]; times in seconds (none for an image); frames, JPEG as data URIs; kept, for each frame
    h * w characters, line by line: "1" a token that stayed, "m" one that was merged into another, "0" one dropped.
    """
    ended = slots(prompt, decisions, ("inputs", "layers"))
    out = []
    for v in prompt.visuals:
        if v.grid is None:
            continue
        where = v.where.cpu()
        end = ended[v.row, where]
        codes = ["1" if e == at else "m" if e >= 0 else "0" for e, at in zip(end.tolist(), where.tolist())]
        t, h, w = v.grid
        rows = ["".join(codes[i * h * w : (i + 1) * h * w]) for i in range(t)]
        pictures = v.pictures[:MOST]
        out.append(
            {
                "kind": v.item.kind,
                "grid": [len(pictures), h, w],
                "times": [round(float(s), 3) for s in v.times[:MOST]],
                "frames": [_small(p) for p in pictures],
                "kept": rows[: len(pictures)],
            }
        )
    return out


def _small(picture: Image) -> str:
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
