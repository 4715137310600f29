"""A picture of items of a task, with questions, answers and where the answers can be seen."""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError, MediaError
from .tasks import TASKS, Item, generate
from .tasks.seeds import known

WIDTH, GAP, LINE, MARK = 232, 10, 14, (255, 60, 120)
FRAMES = 6  # of a clip that are shown


def sheet(
    task: str, path: str | Path, *, n: int = 12, seed: int = 0, difficulty: float = 0.5, columns: int = 4
) -> Path:
    """Draw ``n`` items of a task into one picture; evidence is boxed. Returns the path.

    Raises:
        InputError: an unknown task, or no items asked for.
        MediaError: the file cannot be written, or its suffix names no picture format.
    """
    known("task", task, TASKS)
    if n < 1:
        raise InputError(f"'n' must be at least 1. Got {n}.")
    cards = [_card(item) for item in generate(task, seed, n, difficulty=difficulty)]
    columns = min(columns, n, 2 if TASKS[task].family == "video" or task == "dialogue_video" else columns)
    wide, high = max(c.width for c in cards), max(c.height for c in cards)
    rows = -(-n // columns)
    out = Image.new("RGB", (columns * (wide + GAP) + GAP, rows * (high + GAP) + GAP), "white")
    for i, made in enumerate(cards):
        out.paste(made, (GAP + i % columns * (wide + GAP), GAP + i // columns * (high + GAP)))
    try:
        out.save(path)
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be written ({error})") from error
    return Path(path)


def _card(item: Item) -> Image.Image:
    pictures = _pictures(item)
    across = sum(p.width for p in pictures) + 2 * max(0, len(pictures) - 1) if pictures else WIDTH
    width = max(WIDTH, across)
    lines = [
        line
        for turn in item.turns
        for text in (f"Q: {turn.question}", f"A: {turn.answer}")
        for line in textwrap.wrap(text, width // 6)
    ]
    high = max((p.height for p in pictures), default=0)
    out = Image.new("RGB", (width, high + LINE * len(lines) + 6), "white")
    x = 0
    for picture in pictures:
        out.paste(picture, (x, 0))
        x += picture.width + 2
    pen, font = ImageDraw.Draw(out), ImageFont.load_default(11)
    for i, line in enumerate(lines):
        pen.text((0, high + 3 + i * LINE), line, fill="black", font=font)
    return out


def _pictures(item: Item) -> list[Image.Image]:
    """The image, or frames spread over the clip, with the evidence boxed."""
    many = range(len(item.media))
    chosen = [round(i * (len(many) - 1) / (FRAMES - 1)) for i in range(FRAMES)] if item.times else list(many)
    out = []
    for at in dict.fromkeys(chosen):
        picture = item.media[at].copy()
        pen = ImageDraw.Draw(picture)
        for (x0, y0, x1, y1), span in item.evidence:
            if span is None or span[0] <= item.times[at] < span[1]:
                pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=MARK)
        out.append(picture)
    return out
