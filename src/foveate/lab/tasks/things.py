"""What is on a picture, as data: things with boxes, and the look of the ground. Nothing is drawn here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .words import CELLS

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, the last two exclusive
Size = tuple[int, int]  # width, height


class Thing(NamedTuple):
    """One object.

    Attributes:
        kind: "shape", "sign" or "bar".
        shape: one of KINDS; box: the pixels it covers.
        text: what a sign says, or the letter on a shape; font: its size in pixels.
        value: of a bar. small: the detail of a scene of details.
    """

    kind: str
    colour: str
    shape: str
    box: Box
    text: str = ""
    font: int = 0
    value: int = 0
    small: bool = False

    @property
    def middle(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


class Stroke(NamedTuple):
    """A thin line of clutter on the ground."""

    line: tuple[int, int, int, int]
    colour: tuple[int, int, int]
    width: int


class Look(NamedTuple):
    """All there is to a ground, and to the noise over a whole picture.

    Attributes:
        texture: split, index in the bank, and whether photographs are the bank.
        corner: where it is cut out, in 0..1; mirrored: left and right swapped; shift: added to its brightness.
        face: which typeface is used. noise: its standard deviation. offset: where it starts in the noise bank.
        flash: brightened as by a flash of light.
    """

    texture: tuple[str, int, bool]
    corner: tuple[float, float] = (0, 0)
    mirrored: bool = False
    shift: int = 0
    strokes: tuple[Stroke, ...] = ()
    face: int = 0
    noise: float = 0
    offset: int = 0
    flash: bool = False


class Chart(NamedTuple):
    """The panel of a bar chart: where it is, where values are 0, pixels for each unit, and the highest value."""

    box: Box
    base: int
    unit: int
    top: int
    font: int


@dataclass(frozen=True)
class Scene:
    """One picture. Later things lie over earlier ones."""

    size: Size
    look: Look
    things: tuple[Thing, ...]
    chart: Chart | None = None

    @property
    def shapes(self) -> list[Thing]:
        """What questions call shapes: neither signs nor bars nor the small detail."""
        return [t for t in self.things if t.kind == "shape" and not t.small]

    @property
    def signs(self) -> list[Thing]:
        return [t for t in self.things if t.kind == "sign" and not t.small]

    @property
    def bars(self) -> list[Thing]:
        return [t for t in self.things if t.kind == "bar"]

    def cell(self, thing: Thing) -> str:
        """In which of 3 x 3 cells the middle of a thing is."""
        x, y = thing.middle
        return CELLS[3 * int(3 * y / self.size[1]) + int(3 * x / self.size[0])]

    def raster(self) -> list[Thing]:
        """All things by cell, line by line, and by their middle in a cell."""
        return sorted(self.things, key=lambda t: (CELLS.index(self.cell(t)), t.middle[1], t.middle[0]))


def alone(values: Iterable[str]) -> Iterator[str]:
    """The values that occur once, in order."""
    return (v for v, n in Counter(values).items() if n == 1)


def clear(box: Box, size: Size) -> bool:
    """Whether the middle of a box is clearly inside one of the 3 x 3 cells."""
    for low, high, side in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        at = (low + high) / 2 / side
        if min(abs(at - 1 / 3), abs(at - 2 / 3)) < 0.035:
            return False
    return True


def crosses(a: Box, b: Box, gap: int) -> bool:
    """Whether two boxes come closer than ``gap`` pixels."""
    return a[0] - gap < b[2] and b[0] - gap < a[2] and a[1] - gap < b[3] and b[1] - gap < a[3]


def shared(a: Box, b: Box) -> float:
    """The area that two boxes share, as a part of the smaller box."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    least = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(0, w) * max(0, h) / least
