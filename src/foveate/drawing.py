"""The picture of an answer: every frame with the dropped cells darkened, and above it what was kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .errors import InputError, MediaError

if TYPE_CHECKING:
    from .ask import Answer

_WIDTH, _GAP, _LINE = 320, 12, 18
_DARK = 0.22


def draw(answer: Answer, path: Path) -> Path:
    """Write one picture with all frames of an answer's images and videos; its format follows the suffix.

    Raises:
        InputError: no image or video, or none whose tokens form a grid; or a suffix that Pillow does not write.
        MediaError: the file cannot be written.
    """
    cells = [
        (picture, mask, _caption(v.item.name, v.times, i, mask))
        for v, kept in zip(answer.prompt.visuals, answer.kept())
        if kept is not None
        for i, (picture, mask) in enumerate(zip(v.pictures, kept))
    ]
    if not cells:
        raise InputError("nothing to draw: the prompt has no image or video whose tokens form a grid")
    sheet = _sheet([(darkened(p, m), words) for p, m, words in cells], f"{answer.plan or 'full model'}, {answer.model}")
    try:
        sheet.save(path)
    except ValueError as error:
        raise InputError(f"cannot tell a picture format from {str(path)!r}; end it in .png or .jpg") from error
    except OSError as error:
        raise MediaError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def darkened(picture: Image.Image, kept: Tensor) -> Image.Image:
    """RGB picture, kept (h, w) bool -> a new picture in which dropped cells are dark and grey."""
    scale = _WIDTH / picture.width
    small = picture.resize((_WIDTH, max(1, round(picture.height * scale))))
    bright = np.asarray(small).astype(np.float32)
    grey = np.repeat(bright.mean(-1, keepdims=True), 3, axis=-1) * _DARK
    h, w = kept.shape
    rows = np.arange(small.height) * h // small.height
    columns = np.arange(small.width) * w // small.width
    mask = kept.cpu().numpy()[rows][:, columns, None]
    return Image.fromarray(np.where(mask, bright, grey).astype(np.uint8))


def _caption(name: str, times: list[float], i: int, kept: Tensor) -> str:
    when = f" at {times[i]:.1f} s" if i < len(times) else ""
    return f"{name}{when}: {int(kept.sum())} of {kept.numel()}"


def _sheet(cells: list[tuple[Image.Image, str]], title: str) -> Image.Image:
    columns = min(4, len(cells))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(p.height for p, _ in row) + _LINE for row in rows]
    size = (columns * (_WIDTH + _GAP) + _GAP, sum(h + _GAP for h in heights) + _LINE + 2 * _GAP)
    out = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(out), ImageFont.load_default(13)
    pen.text((_GAP, _GAP), title, fill="black", font=font)
    y = _LINE + 2 * _GAP
    for row, height in zip(rows, heights):
        for i, (picture, words) in enumerate(row):
            x = _GAP + i * (_WIDTH + _GAP)
            pen.text((x, y), words, fill="black", font=font)
            out.paste(picture, (x, y + _LINE))
        y += height + _GAP
    return out
