"""Scenes from chance: how many things, which, and where. ``difficulty`` in 0..1 adds things, clutter and small text."""

from __future__ import annotations

import string
from collections.abc import Sequence
from random import Random

from .lettering import FACES, spread
from .texture import BANK
from .things import Box, Chart, Look, Scene, Size, Stroke, Thing, clear, crosses, shared
from .words import COLOURS, SHAPES, SIGNS

LETTERS = string.ascii_uppercase
TOP = 6  # the highest value of a bar


def most(difficulty: float) -> int:
    """How many shapes a scene has at most."""
    return 3 + round(4 * difficulty)


def look(rng: Random, size: Size, split: str, difficulty: float, photos: bool = False, clutter: bool = True) -> Look:
    """A ground with strokes of clutter and noise."""
    unit = min(size)
    strokes = []
    for _ in range(rng.randint(0, round(14 * difficulty)) if clutter else 0):
        x, y, reach = rng.randrange(size[0]), rng.randrange(size[1]), max(4, unit // 9)
        end = x + rng.randint(-reach, reach), y + rng.randint(-reach, reach)
        grey, tint = rng.randint(50, 205), [rng.randint(-22, 22) for _ in range(3)]
        colour = (grey + tint[0], grey + tint[1], grey + tint[2])
        strokes.append(Stroke((x, y, *end), colour, max(1, unit // rng.randint(70, 160))))
    return Look(
        texture=(split, rng.randrange(BANK), photos),
        corner=(rng.random(), rng.random()),
        mirrored=rng.random() < 0.5,
        shift=rng.randint(-24, 24),
        strokes=tuple(strokes),
        face=rng.randrange(len(FACES)),
        noise=1 + rng.random() * (2 + 9 * difficulty),
        offset=rng.randrange(1 << 20),
    )


def compose(
    rng: Random, size: Size, difficulty: float = 0.5, kind: str = "shapes", split: str = "test", photos: bool = False
) -> Scene:
    """One scene. kind: "shapes" (at most one sign), "signs" (one to three, few shapes), "chart" or "detail"."""
    ground = look(rng, size, split, difficulty, photos)
    if kind == "chart":
        return _chart(rng, size, difficulty, ground)
    things: list[Thing] = []
    colours = rng.sample(list(COLOURS), len(COLOURS))
    signs = {"shapes": rng.random() < 0.45, "detail": 0}.get(kind, rng.randint(1, 2 + round(difficulty)))
    for _ in range(int(signs)):  # signs first: they need most room; their colours are used by no shape
        if len(colours) > 5 and (sign := _sign(rng, size, difficulty, ground.face, colours[-1], things)):
            things.append(sign)
            colours.pop()
    n = rng.randint(1, 2) if kind == "signs" else rng.randint(2, 3 if kind == "detail" else most(difficulty))
    small = _small(rng, size, ground.face, colours.pop(), things) if kind == "detail" else None
    if small:
        things.append(small)
    shapes = [s for s in SHAPES if not small or s != small.shape]
    lettered = kind != "detail" and rng.random() < 0.4
    for colour, shape in _cast(rng, n, colours, shapes):
        made = _shape(rng, size, n, colour, shape, things, 0 if lettered else 0.18 * (rng.random() < 0.6 * difficulty))
        if made:
            things.append(_lettered(rng, made) if lettered else made)
    over = [t for t in things if t.kind == "sign" or t.small]
    return Scene(size, ground, tuple([t for t in things if t not in over] + over))


def _cast(rng: Random, n: int, colours: Sequence[str], shapes: Sequence[str]) -> list[tuple[str, str]]:
    """(colour, shape) of n things. Some scenes repeat one colour or shape, so that there is something to count."""
    cast = [(rng.choice(colours), rng.choice(shapes)) for _ in range(n)]
    again, which = rng.randint(0, n), rng.random()
    for i in range(again if n > 1 and which < 0.66 else 0):
        cast[i] = (cast[0][0], cast[i][1]) if which < 0.33 else (cast[i][0], cast[0][1])
    rng.shuffle(cast)
    return cast


def _shape(
    rng: Random, size: Size, n: int, colour: str, shape: str, others: Sequence[Thing], overlap: float
) -> Thing | None:
    side = round(min(size) * rng.uniform(0.17, 0.34 - 0.018 * n))
    box = place(rng, size, side, side, others, overlap)
    return None if box is None else Thing("shape", colour, shape, box)


def _lettered(rng: Random, thing: Thing) -> Thing:
    font = round(0.55 * (thing.box[2] - thing.box[0]))
    bare = thing.shape in (
        "ring",
        "star",
        "triangle",
        "heart",
        "square",
    )  # little room; a square would look like a sign
    return thing if bare or font < 10 else thing._replace(text=rng.choice(LETTERS), font=font)


def word(rng: Random, length: int) -> str:
    """A word of at most this many letters, or as many random letters; random ones more often."""
    fitting = [w for w in SIGNS if len(w) == length]
    return rng.choice(fitting) if fitting and rng.random() < 0.35 else "".join(rng.choices(LETTERS, k=length))


def _sign(rng: Random, size: Size, difficulty: float, face: int, colour: str, others: Sequence[Thing]) -> Thing | None:
    unit = min(size)
    length = rng.randint(1, 2 + round(4 * difficulty))
    font = max(11, round(unit * rng.uniform(0.19 - 0.13 * difficulty, 0.22)))
    return sign(rng, size, word(rng, length), font, face, colour, others)


def sign(
    rng: Random, size: Size, text: str, font: int, face: int, colour: str, others: Sequence[Thing], small: bool = False
) -> Thing | None:
    """A plate that says ``text``, where it fits; its font shrinks when the word is too long for the picture."""
    while font > 9 and spread(text, face, font)[0] > 0.8 * size[0]:
        font -= 1
    width, _, _, height = spread(text, face, font)
    pad = max(2, font // 4)
    box = place(rng, size, width + 3 * pad, height + 2 * pad, others, 0)
    return None if box is None else Thing("sign", colour, "sign", box, text, font, small=small)


def _small(rng: Random, size: Size, face: int, colour: str, others: Sequence[Thing]) -> Thing | None:
    """The detail of a large picture: a shape of 6 % of its side, or a sign of up to three letters of 5 %."""
    unit = min(size)
    if rng.random() < 0.5:
        text = "".join(rng.choices(LETTERS, k=rng.randint(1, 3)))
        return sign(rng, size, text, max(10, round(0.05 * unit)), face, colour, others, small=True)
    side = max(9, round(0.065 * unit))
    box = place(rng, size, side, side, others, 0)
    return None if box is None else Thing("shape", colour, rng.choice(SHAPES), box, small=True)


def place(rng: Random, size: Size, w: int, h: int, others: Sequence[Thing], overlap: float) -> Box | None:
    """A free box of this size, its middle clearly in one cell. overlap: which part may be shared with one shape."""
    margin, gap = max(1, min(size) // 50), max(2, min(size) // 56)
    if w + 2 * margin > size[0] or h + 2 * margin > size[1]:
        return None
    for _ in range(40):
        x, y = rng.randint(margin, size[0] - w - margin), rng.randint(margin, size[1] - h - margin)
        box = (x, y, x + w, y + h)
        if not clear(box, size):
            continue
        near = [t for t in others if crosses(box, t.box, gap)]
        lone = len(near) == 1 and near[0].kind == "shape" and not near[0].small
        if not near or (lone and overlap and shared(box, near[0].box) <= overlap):
            return box
    return None


def _chart(rng: Random, size: Size, difficulty: float, ground: Look) -> Scene:
    """A panel with two to five bars of values 1 to 6, between grid lines with their numbers."""
    n = rng.randint(2 + round(difficulty + 0.2), 3 + round(2 * difficulty))
    font = max(8, min(size) // 14)
    unit = round(min(size) * rng.uniform(0.72, 0.84)) // (TOP + 1)
    height, left = unit * TOP, 2 * font
    step = max(8, round((0.88 * size[0] - left) / max(n, 3) * rng.uniform(0.7, 1)))
    width, total = left + step * n + step // 4, height + 2 * font
    x, y = rng.randint(1, max(1, size[0] - width - 1)), rng.randint(1, max(1, size[1] - total - 1))
    base = y + font // 2 + unit // 2 + height
    chart = Chart((x, y, x + width, min(size[1] - 1, y + total)), base, unit, TOP, font)
    bars = []
    for i, colour in enumerate(rng.sample([c for c in COLOURS if c != "white"], n)):
        value = rng.randint(1, TOP)
        at = x + left + step // 4 + i * step
        box = (at, base - value * unit, at + max(4, round(0.72 * step)), base)
        bars.append(Thing("bar", colour, "bar", box, value=value))
    return Scene(size, ground, tuple(bars), chart)
