"""Pictures of what was kept: dropped cells darkened, merged cells tinted alike, many frames on one sheet."""

from __future__ import annotations

import colorsys
import importlib.util
import math
from collections.abc import Sequence
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .errors import InputError, MediaError

MOST = 64  # frames on one sheet
SHEET = 1280  # pixels the sheet aims to be wide
MARGIN, GAP = 28, 14  # pixels around the sheet, and between frames
INK, FAINT, PAPER = (28, 30, 34), (112, 118, 126), (255, 255, 255)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_kept(image: Image.Image, kept: Tensor, groups: Tensor | None = None) -> Image.Image:
    """The image under a thin grid of tokens, cells that were dropped darkened; a new RGB image of the same size.

    kept: (rows, cols) bool, or numbers that are not 0 where kept.
    groups: (rows, cols) int, the slot each cell went to, -1 where dropped. Cells of a slot that holds several are
        tinted alike and outlined; they stay bright where ``kept`` is False, and the cell that is kept is tinted more.

    Raises:
        InputError: kept is no grid, or groups has another shape.
    """
    keep = _grid(kept)
    shown, tint, part = keep, None, None
    if groups is not None:
        part = groups.detach().cpu().numpy()
        if part.shape != keep.shape:
            raise InputError(f"groups {part.shape} and kept {keep.shape} must have the same shape")
        shown = keep | (part >= 0)
        tint = _tints(part)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    height, width = pixels.shape[:2]
    y, x = _cells(height, keep.shape[0]), _cells(width, keep.shape[1])
    bright = shown[y][:, x][..., None]
    grey = pixels.mean(-1, keepdims=True)
    out = np.where(bright, pixels, 0.13 * pixels + 0.09 * grey + 6)
    if tint is not None:
        colour = tint[y][:, x]
        share = np.where(keep[y][:, x], 0.5, 0.3)[..., None] * (colour[..., :1] >= 0)
        out = out * (1 - share) + colour * share
    line = _lines(y, height, keep.shape[0])[:, None] | _lines(x, width, keep.shape[1])[None]
    strength = np.where(bright, 0.16, 0.3)
    out = np.where(line[..., None], out * (1 - strength) + 96 * strength, out)
    if part is not None:
        edge = _edges(part, y, x)
        out = np.where(edge[..., None], 0.25 * out + 0.75 * 255, out)
    return Image.fromarray(out.round().clip(0, 255).astype(np.uint8))


def draw_report(
    frames: Sequence[Image.Image],
    grids: Sequence[Tensor],
    title: str = "",
    captions: Sequence[str] | None = None,
    *,
    groups: Sequence[Tensor] | None = None,
) -> Image.Image:
    """A contact sheet: each frame, below it what was kept of it, and its caption with kept / total.

    frames: at least one, of any sizes. Of more than 64, 64 spread over all of them are drawn (the counts are of all).
    grids: for each frame (rows, cols) bool, True where kept.
    title: wrapped over as many lines as it takes.
    captions: for each frame a few words, for instance its time; cut short where they would not fit.
    groups: for each frame (rows, cols) int as in :func:`draw_kept`.

    Raises:
        InputError: no frames, lists of different lengths, or something that is no grid.
    """
    n = len(frames)
    if n == 0:
        raise InputError("there are no frames to draw")
    for name, values in (("grids", grids), ("captions", captions), ("groups", groups)):
        if values is not None and len(values) != n:
            raise InputError(f"there are {n} frames and {len(values)} {name}; give one for each frame")
    counts = [(int(g.sum()), g.size) for g in map(_grid, grids)]
    drawn = list(range(n)) if n <= MOST else [int((i + 0.5) * n / MOST) for i in range(MOST)]
    columns, wide = _layout(len(drawn))
    pictures = [_fit(frames[i], wide, round(1.5 * wide)) for i in drawn]
    text, small, large = _font(13 if wide >= 180 else 11), _font(13), _font(20)
    below = _height(text) + 10 + GAP
    rows = [max(p.height for p in pictures[i : i + columns]) for i in range(0, len(drawn), columns)]
    inner = max(columns * (wide + GAP) - GAP, 420)
    head = _wrap(title, large, inner) if title.strip() else []
    foot = _wrap(_summary(counts, n, len(drawn), groups is not None), small, inner)
    top = MARGIN + len(head) * (_height(large) + 4) + len(foot) * (_height(small) + 3) + 12
    size = inner + 2 * MARGIN, top + sum(2 * high + below for high in rows) - GAP + MARGIN
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    at = MARGIN
    for lines, font, ink, space in ((head, large, INK, 4), (foot, small, FAINT, 3)):
        for words in lines:
            pen.text((MARGIN, at), words, ink, font=font)
            at += _height(font) + space
    left = MARGIN + (inner - columns * (wide + GAP) + GAP) // 2
    for place, (i, picture) in enumerate(zip(drawn, pictures)):
        x, y = left + place % columns * (wide + GAP), top
        y += sum(2 * high + below for high in rows[: place // columns])
        kept = draw_kept(picture, grids[i], None if groups is None else groups[i])
        inset = (wide - picture.width) // 2
        sheet.paste(picture, (x + inset, y))
        sheet.paste(kept, (x + inset, y + picture.height + 4))
        label = f"{counts[i][0]}/{counts[i][1]}"
        room = wide - text.getlength(label)
        y += 2 * picture.height + 8
        pen.text((x + room, y), label, FAINT, font=text)
        if captions is not None:
            pen.text((x, y), _cut(captions[i], text, room - 8), INK, font=text)
    return sheet


def save_sheet(
    path: str | PathLike[str],
    frames: Sequence[Image.Image],
    grids: Sequence[Tensor],
    title: str = "",
    captions: Sequence[str] | None = None,
    *,
    groups: Sequence[Tensor] | None = None,
) -> Path:
    """Write :func:`draw_report` to a picture file, in the format of its suffix; returns the path.

    Raises:
        InputError: as :func:`draw_report`.
        MediaError: the file cannot be written, or its suffix names no picture format.
    """
    path = Path(path)
    sheet = draw_report(frames, grids, title, captions, groups=groups)
    try:
        sheet.save(path)
    except ValueError as error:
        raise MediaError(f"{path}: '{path.suffix}' is no picture format; end the name in .png or .jpg") from error
    except OSError as error:
        raise MediaError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


# --- cells --------------------------------------------------------------------------------------------------------


def _grid(kept: Tensor) -> NDArray[np.bool_]:
    if kept.ndim != 2 or 0 in kept.shape:
        raise InputError(f"a grid of tokens is (rows, cols). Got {tuple(kept.shape)}.")
    grid: NDArray[np.bool_] = (kept != 0).cpu().numpy()
    return grid


def _cells(pixels: int, cells: int) -> NDArray[np.int64]:
    """(pixels,) the cell each pixel lies in."""
    return (np.arange(pixels) * cells) // pixels


def _lines(cell: NDArray[np.int64], pixels: int, cells: int) -> NDArray[np.bool_]:
    """(pixels,) True on the first pixel of each cell but the first; nowhere if cells are too small for lines."""
    first = np.diff(cell, prepend=cell[:1]) > 0
    return first & (pixels >= 6 * cells)


def _tints(part: NDArray[Any]) -> NDArray[np.float32]:
    """(rows, cols) slots -> (rows, cols, 3) colours, -1 for cells that are dropped or alone in their slot."""
    slots, index, size = np.unique(part, return_inverse=True, return_counts=True)
    colours = np.full((len(slots), 3), -1.0, dtype=np.float32)
    for i, slot in enumerate(slots):
        if slot >= 0 and size[i] > 1:  # golden-ratio steps around the colour wheel keep near numbers apart
            shade = colorsys.hsv_to_rgb(int(slot) * 0.618034 % 1, 0.75, 1.0 if int(slot) % 2 else 0.8)
            colours[i] = np.array(shade) * 255
    return colours[index.reshape(part.shape)]


def _edges(part: NDArray[Any], y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(height, width) True along the border between two slots, if cells are large enough to outline."""
    if len(y) < 6 * part.shape[0] or len(x) < 6 * part.shape[1]:
        return np.zeros((len(y), len(x)), dtype=np.bool_)
    wide = part[y][:, x]
    down, across = np.diff(wide, axis=0, prepend=wide[:1]), np.diff(wide, axis=1, prepend=wide[:, :1])
    edges: NDArray[np.bool_] = (down != 0) | (across != 0)
    return edges


# --- the sheet ----------------------------------------------------------------------------------------------------


def _layout(n: int) -> tuple[int, int]:
    """Number of frames -> (columns, width of a frame in pixels)."""
    columns = n if n <= 4 else min(8, math.ceil(math.sqrt(2 * n)))
    rows = math.ceil(n / columns)
    columns = math.ceil(n / rows)  # as even as it goes
    return columns, min(440, (SHEET - 2 * MARGIN + GAP) // columns - GAP)


def _fit(image: Image.Image, wide: int, high: int) -> Image.Image:
    """The whole image at the largest size that fits."""
    scale = min(wide / image.width, high / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _summary(counts: Sequence[tuple[int, int]], n: int, drawn: int, merged: bool) -> str:
    kept, total = sum(k for k, _ in counts), sum(t for _, t in counts)
    words = f"{kept:,} of {total:,} visual tokens kept ({100 * kept / total:.1f}%); dark cells are dropped"
    words += "; cells of one colour are one token" if merged else ""
    return words + (f"; {drawn} of {n:,} frames drawn" if drawn < n else "")


@lru_cache
def _font(size: int) -> Font:
    """DejaVu Sans, which matplotlib brings along and which knows most alphabets; else Pillow's own."""
    spec = importlib.util.find_spec("matplotlib")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        try:
            return ImageFont.truetype(str(Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")), size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _height(font: Font) -> int:
    return math.ceil(font.getbbox("Ågj|")[3])


def _wrap(words: str, font: Font, width: float) -> list[str]:
    """Lines no wider than ``width``; a word that is too long for a line is cut."""
    lines: list[str] = []
    for paragraph in words.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = _cut(longer, font, width)
        lines.append(line)
    return [line for line in lines if line]


def _cut(words: str, font: Font, width: float) -> str:
    """One line of text no wider than ``width``, ended by ... if it was longer."""
    words = " ".join(words.split())
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "...") > width:
        words = words[:-1]
    return words.rstrip() + "..." if words else ""
