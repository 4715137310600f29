"""A small clip made from nothing, so that demos and tests download no data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from .write import write_video

WORDS = ("OWL", "TEA", "FIG", "SUN", "KEY", "MAP", "ICE", "JAM")
COLOURS = {"red": (214, 54, 48), "blue": (44, 98, 214), "yellow": (240, 196, 48), "green": (48, 160, 82)}
SHAPES = ("circle", "square", "triangle")


@dataclass(frozen=True)
class DemoClip:
    """What was drawn, for questions with known answers.

    Attributes:
        path: the video file.
        word: the word shown.
        start, stop: seconds between which it is shown.
        shapes: (colour, shape) of each thing that moves, back to front.
    """

    path: Path
    word: str
    start: float
    stop: float
    shapes: tuple[tuple[str, str], ...]


def demo_clip(
    path: str | PathLike[str], seconds: float = 8, fps: float = 8, size: tuple[int, int] = (224, 160), seed: int = 0
) -> DemoClip:
    """Write a clip of three coloured shapes moving over a textured background, and a word shown during one moment.

    size: (width, height) in pixels, at least 32 each. The same seed gives the same frames.

    Raises:
        InputError: a size, length or rate that leaves nothing to see.
        MediaError: the file cannot be written.
    """
    if min(size) < 32 or round(seconds * fps) < 1:
        raise InputError(f"demo_clip() needs 32x32 pixels and one frame. Got {size}, {seconds} s at {fps} fps.")
    rng = np.random.default_rng(seed)
    colours = [str(c) for c in rng.permutation(list(COLOURS))[:3]]
    things = tuple(zip(colours, (str(s) for s in rng.permutation(SHAPES))))
    word = str(rng.choice(WORDS))
    start = round(seconds * rng.uniform(0.35, 0.6) * fps) / fps
    stop = min(seconds, start + max(1 / fps, round(seconds * 0.2 * fps) / fps))
    paths = rng.uniform(0, 2 * math.pi, (3, 2)), rng.integers(1, 3, (3, 2))
    ground = _ground(rng, size)

    def frames() -> Iterator[Image.Image]:
        for i in range(round(seconds * fps)):
            time = i / fps
            image = ground.copy()
            for (colour, shape), phase, speed in zip(things, *paths):
                turn = phase + speed * 2 * math.pi * time / max(seconds, 1e-6)
                _shape(image, shape, COLOURS[colour], 0.5 + 0.36 * math.sin(turn[0]), 0.5 + 0.32 * math.cos(turn[1]))
            if start <= time < stop:
                _sign(image, word)
            yield image

    return DemoClip(write_video(path, frames(), fps), word, start, stop, things)


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Soft patches of earthy colour under a fine weave; (width, height) -> RGB."""
    width, height = size
    patches = rng.uniform(0.45, 0.7, (5, 7, 1)) * rng.uniform(0.88, 1, (5, 7, 3)) * np.array([0.96, 0.94, 0.84])
    coarse = Image.fromarray((patches * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    y, x = np.mgrid[0:height, 0:width]
    weave = 9 * np.sin(x * 0.9) * np.sin(y * 0.7) + rng.normal(0, 5, (height, width))
    return Image.fromarray((np.asarray(coarse, dtype=np.float64) + weave[..., None]).clip(0, 255).astype(np.uint8))


def _shape(image: Image.Image, shape: str, colour: tuple[int, int, int], u: float, v: float) -> None:
    draw = ImageDraw.Draw(image)
    x, y, r = u * image.width, v * image.height, min(image.size) * 0.13
    edge = tuple(c // 2 for c in colour)
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), colour, edge, 2)
    elif shape == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), colour, edge, 2)
    else:
        draw.polygon([(x, y - 1.1 * r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)], colour, edge, 2)


def _sign(image: Image.Image, word: str) -> None:
    """The word in black on a white sign at the lower right."""
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(10, round(image.height * 0.17)))
    left, top, right, bottom = draw.textbbox((0, 0), word, font=font)
    pad = image.height * 0.03
    x, y = image.width - (right - left) - 3 * pad, image.height - (bottom - top) - 3 * pad
    draw.rectangle((x - pad, y - pad, x + right - left + pad, y + bottom - top + pad), "white", "black", 1)
    draw.text((x - left, y - top), word, "black", font=font)
