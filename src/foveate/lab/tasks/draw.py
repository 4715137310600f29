"""Scenes to pixels, and to maps of what lies where. Edges are hard and fonts small, so that it is fast."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .lettering import spread, typeface
from .texture import SIDE, Pixels, texture
from .things import Box, Chart, Look, Scene, Size, Thing
from .words import CHARACTERS, COLOURS

BRIGHT = ("yellow", "orange", "white")  # letters on these are black
Map = NDArray[np.uint8]
_SPOKES = [
    (0.5 + math.sin(k * math.pi / 5) * r, 0.53 - math.cos(k * math.pi / 5) * r)
    for k in range(10)
    for r in (0.53 if k % 2 == 0 else 0.22,)
]
_TURNS = [k * math.pi / 12 for k in range(24)]
#: Corners in a unit square.
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "triangle": [(0.5, 0.02), (1, 0.98), (0, 0.98)],
    "diamond": [(0.5, 0), (0.95, 0.5), (0.5, 1), (0.05, 0.5)],
    "star": _SPOKES,
    "cross": [(0.33, 0), (0.67, 0), (0.67, 0.33), (1, 0.33), (1, 0.67), (0.67, 0.67), (0.67, 1), (0.33, 1),
              (0.33, 0.67), (0, 0.67), (0, 0.33), (0.33, 0.33)],
    "heart": [(0.5 + math.sin(t) ** 3 / 2, 0.46 - (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)
              - math.cos(4 * t)) / 33) for t in _TURNS],
}  # fmt: skip


def pixels(scene: Scene) -> Pixels:
    """A scene as (H, W, 3), noise and all."""
    look = scene.look
    picture = Image.fromarray(ground(look._replace(noise=0, offset=0, flash=False), scene.size))
    pen = ImageDraw.Draw(picture)
    if scene.chart is not None:
        _panel(pen, scene.chart)
    for thing in scene.things:
        _paint(pen, thing, look.face)
    raw = np.asarray(picture)
    if look.flash:
        raw = (raw // 3 + np.uint8(168)).astype(np.uint8)
    return raw if look.noise == 0 else _noisy(raw, look.noise, look.offset)


def owners(scene: Scene) -> tuple[Map, Map]:
    """Two maps (H, W): 1 + the index of the thing that covers a pixel, and 1 + that of the character; 0 for none."""
    own, letters = Image.new("L", scene.size), Image.new("L", scene.size)
    pen, letter_pen = ImageDraw.Draw(own), ImageDraw.Draw(letters)
    for i, thing in enumerate(scene.things):
        _fill(pen, thing, i + 1)
        if thing.kind != "bar":
            letter_pen.rectangle(_last(thing.box), 0)  # what lies over letters hides them
        for character, box in boxes(thing, scene.look.face):
            letter_pen.rectangle(_last(box), 1 + CHARACTERS.index(character))
    return np.asarray(own), np.asarray(letters)


def boxes(thing: Thing, face: int) -> list[tuple[str, Box]]:
    """Where each character of a thing lies."""
    if not thing.text:
        return []
    x, y, edges, height = _at(thing, face)
    return [
        (c, (round(x + a), y, max(round(x + a) + 1, round(x + b)), y + height))
        for c, (a, b) in zip(thing.text, itertools.pairwise(edges))
    ]


@functools.lru_cache(maxsize=8)
def ground(look: Look, size: Size) -> Pixels:
    """The ground with its strokes (H, W, 3), never written to."""
    bank = texture(*look.texture)
    w, h = min(size[0], SIDE), min(size[1], SIDE)
    x, y = int(look.corner[0] * (SIDE - w)), int(look.corner[1] * (SIDE - h))
    cut = bank[y : y + h, x : x + w]
    cut = cut[:, ::-1] if look.mirrored else cut
    picture = Image.fromarray((cut.astype(np.int16) + look.shift).clip(0, 255).astype(np.uint8))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(picture)
    for line, colour, width in look.strokes:
        pen.line(line, colour, width)
    made = np.asarray(picture)
    made.setflags(write=False)
    return made


@functools.cache
def _grain() -> NDArray[np.int16]:
    """A long row of normal noise, in 1/16."""
    return (np.random.default_rng(0).standard_normal(1 << 21) * 16).round().astype(np.int16)


def _noisy(raw: Pixels, deviation: float, offset: int) -> Pixels:
    grain = _grain()
    flat = raw.reshape(-1)
    at = offset % (len(grain) - 1)
    row = np.resize(grain[at:], flat.shape) if at + len(flat) > len(grain) else grain[at : at + len(flat)]
    mixed = flat + ((row * np.int16(round(deviation * 4))) >> 6)
    return mixed.clip(0, 255).astype(np.uint8).reshape(raw.shape)


def _panel(pen: ImageDraw.ImageDraw, chart: Chart) -> None:
    pen.rectangle(_last(chart.box), (232, 232, 228), (90, 90, 90))
    font = typeface(0, chart.font)
    for value in range(chart.top + 1):
        y = chart.base - value * chart.unit
        _, _, top, height = spread(str(value), 0, chart.font)
        pen.text((chart.box[0] + 3, y - height // 2 - top), str(value), (40, 40, 40), font)
        pen.line((chart.box[0] + 2 * chart.font - 3, y, chart.box[2] - 2, y), (160, 160, 160))


def _paint(pen: ImageDraw.ImageDraw, thing: Thing, face: int) -> None:
    inside = COLOURS[thing.colour]
    light = thing.colour == "black" and thing.kind != "bar"  # on the ground, which may be dark itself
    edge = (205, 205, 205) if light else (inside[0] // 3, inside[1] // 3, inside[2] // 3)
    box, width = _last(thing.box), 1 + (thing.box[3] - thing.box[1]) // 40
    if thing.shape == "circle":
        pen.ellipse(box, inside, edge, width)
    elif thing.shape == "ring":
        thick = max(2, round(0.24 * (thing.box[2] - thing.box[0])))
        pen.ellipse(box, None, edge, thick)
        pen.ellipse((box[0] + width, box[1] + width, box[2] - width, box[3] - width), None, inside, thick - 2 * width)
    elif thing.shape in OUTLINES:
        pen.polygon(_corners(thing), inside, edge, width)
    else:
        pen.rectangle(box, inside, edge, width)
    if thing.text:
        x, y, _, _ = _at(thing, face)
        top = spread(thing.text, face, thing.font)[2]
        ink = (0, 0, 0) if thing.colour in BRIGHT else (255, 255, 255)
        pen.text((x, y - top), thing.text, ink, typeface(face, thing.font))


def _fill(pen: ImageDraw.ImageDraw, thing: Thing, index: int) -> None:
    if thing.shape in ("circle", "ring"):  # what is seen through a ring counts as the ring
        pen.ellipse(_last(thing.box), index)
    elif thing.shape in OUTLINES:
        pen.polygon(_corners(thing), index)
    else:
        pen.rectangle(_last(thing.box), index)


def _corners(thing: Thing) -> list[tuple[float, float]]:
    x, y, w, h = thing.box[0], thing.box[1], thing.box[2] - thing.box[0] - 1, thing.box[3] - thing.box[1] - 1
    return [(x + u * w, y + v * h) for u, v in OUTLINES[thing.shape]]


def _last(box: Box) -> Box:
    """Pillow's boxes include their last pixels."""
    return box[0], box[1], box[2] - 1, box[3] - 1


def _at(thing: Thing, face: int) -> tuple[int, int, tuple[float, ...], int]:
    """Left and top of a thing's text, where its letters start, and how high they are."""
    width, edges, _, height = spread(thing.text, face, thing.font)
    x, y = thing.middle
    return round(x - width / 2), round(y - height / 2), edges, height
