"""Every question that can be asked of a picture, each with its answer read off the scene's data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import permutations
from random import Random
from typing import NamedTuple

from .compose import TOP, most
from .things import Scene, Thing, alone
from .turn import Turn, seen
from .words import ASK, CELLS, COLOURS, NAMED, SHAPES


class Form(NamedTuple):
    """One way to ask for something.

    Attributes:
        ask: all such questions of a scene; chance only decides how things are called.
        answers: the closed set of answers at a difficulty, or () for open ones.
    """

    ask: Callable[[Scene, Random], list[Turn]]
    answers: Callable[[float], tuple[str, ...]] = lambda difficulty: ()


def _say(key: str, **names: str) -> str:
    return ASK[key][0].format(**names)


def called(thing: Thing, scene: Scene, rng: Random) -> str | None:
    """A name that fits this shape and no other ("the star", "the red one", "the red star"), or None."""
    shapes = scene.shapes
    fits = (
        sum(t.shape == thing.shape for t in shapes),
        sum(t.colour == thing.colour for t in shapes),
        sum(t.shape == thing.shape and t.colour == thing.colour for t in shapes),
    )
    names = [n.format(shape=thing.shape, colour=thing.colour) for n, count in zip(NAMED, fits) if count == 1]
    return rng.choice(names) if names else None


def _attribute(scene: Scene, rng: Random) -> list[Turn]:
    lone = set(alone(t.shape for t in scene.shapes))
    of = [t for t in scene.shapes if t.shape in lone]
    return [Turn(_say("attribute", shape=t.shape), t.colour, "attribute", seen([t])) for t in of]


def _shape(scene: Scene, rng: Random) -> list[Turn]:
    lone = set(alone(t.colour for t in scene.shapes))
    of = [t for t in scene.shapes if t.colour in lone]
    return [Turn(_say("shape", colour=t.colour), t.shape, "shape", seen([t])) for t in of]


def _counting(scene: Scene, rng: Random) -> list[Turn]:
    shapes = scene.shapes
    out = [Turn(_say("count all"), str(len(shapes)), "counting", seen(shapes))]
    for colour, n in Counter(t.colour for t in shapes).items():
        of = [t for t in shapes if t.colour == colour]
        out.append(Turn(_say("count colour", colour=colour), str(n), "counting", seen(of)))
    for shape, n in Counter(t.shape for t in shapes).items():
        of = [t for t in shapes if t.shape == shape]
        out.append(Turn(_say("count kind", shape=shape), str(n), "counting", seen(of)))
    return out


def _relation(scene: Scene, rng: Random) -> list[Turn]:
    out = []
    names = [(t, name) for t in scene.shapes if (name := called(t, scene, rng))]
    for (a, first), (b, second) in permutations(names, 2):
        dx, dy = a.middle[0] - b.middle[0], a.middle[1] - b.middle[1]
        if abs(dx) > 0.14 * scene.size[0]:
            text = _say("sideways", a=first, b=second)
            out.append(Turn(text, "left" if dx < 0 else "right", "relation", seen([a, b])))
        if abs(dy) > 0.14 * scene.size[1]:
            text = _say("upright", a=first, b=second)
            out.append(Turn(text, "above" if dy < 0 else "below", "relation", seen([a, b])))
    return out


def _where(scene: Scene, rng: Random) -> list[Turn]:
    names = [(t, name) for t in scene.shapes if (name := called(t, scene, rng))]
    return [Turn(_say("where", a=name), scene.cell(t), "position", seen([t])) for t, name in names]


def _at(key: str, scene: Scene) -> list[Turn]:
    lone = set(alone(scene.cell(t) for t in scene.shapes))
    of = [(t, scene.cell(t)) for t in scene.shapes if scene.cell(t) in lone]
    return [Turn(_say(f"{key} at", cell=c), getattr(t, key), "position", seen([t])) for t, c in of]


def _read(scene: Scene, rng: Random) -> list[Turn]:
    signs = scene.signs
    out = [Turn(_say("read one", colour=t.colour), t.text, "read", seen([t])) for t in signs]
    return [Turn(_say("read"), signs[0].text, "read", seen(signs))] if len(signs) == 1 and rng.random() < 0.5 else out


def _letter(scene: Scene, rng: Random) -> list[Turn]:
    named = [(t, called(t, scene, rng)) for t in scene.shapes if t.text]
    return [Turn(_say("letter", a=name), t.text, "read", seen([t])) for t, name in named if name]


def _value(scene: Scene, rng: Random) -> list[Turn]:
    return [Turn(_say("value", colour=t.colour), str(t.value), "chart", seen([t])) for t in scene.bars]


def _extreme(scene: Scene, rng: Random) -> list[Turn]:
    out = []
    for key, best in (("highest", max), ("lowest", min)):
        value = best((t.value for t in scene.bars), default=0)
        at = [t for t in scene.bars if t.value == value]
        if len(at) == 1:
            others = [t for t in scene.bars if t is not at[0]]
            out.append(Turn(_say(key), at[0].colour, "chart", seen([*at, *others])))
    return out


def phrase(thing: Thing, scene: Scene) -> str:
    """A thing as descriptions have it: "red circle K top left", "white sign KDW center", "blue bar 5"."""
    if thing.kind == "bar":
        return f"{thing.colour} bar {thing.value}"
    return " ".join(filter(None, (thing.colour, thing.shape, thing.text, scene.cell(thing))))


def _describe(scene: Scene, rng: Random) -> list[Turn]:
    things = scene.bars or scene.raster()
    text = ", ".join(phrase(t, scene) for t in things)
    return [Turn(_say("describe"), text, "describe", seen(things))] if things else []


def _none(scene: Scene, rng: Random) -> list[Turn]:
    """Half of what is absent has a colour and a shape that are both there, on different things."""
    shapes = scene.shapes
    there = {(t.colour, t.shape) for t in shapes}
    near = [(c, s) for c in {t.colour for t in shapes} for s in {t.shape for t in shapes} if (c, s) not in there]
    far = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in there]
    absent = rng.choice(sorted(near) if near and rng.random() < 0.5 else far)
    out = [Turn(_say("none", colour=absent[0], shape=absent[1]), "yes", "negation", seen(shapes))]
    for colour, shape in sorted(there):
        of = [t for t in shapes if (t.colour, t.shape) == (colour, shape)]
        out.append(Turn(_say("none", colour=colour, shape=shape), "no", "negation", seen(of)))
    return out


def _missing(key: str, every: tuple[str, ...], scene: Scene, rng: Random) -> list[Turn]:
    """One of three is not there; the two that are may stand in any place."""
    there = sorted({str(getattr(t, key)) for t in scene.things if t.kind != "bar"} & set(every))
    if len(there) < 2:
        return []
    out = []
    for gone in (v for v in every if v not in there):
        a, b, c = rng.sample([gone, *rng.sample(there, 2)], 3)
        of = [t for t in scene.things if getattr(t, key) in (a, b, c)]
        out.append(Turn(_say(f"missing {key}", a=a, b=b, c=c), gone, "negation", seen(of)))
    return out


def _detail(scene: Scene, rng: Random) -> list[Turn]:
    of = [t for t in scene.things if t.small]
    return [
        Turn(_say("small sign"), t.text, "detail", seen([t]))
        if t.kind == "sign"
        else Turn(_say("small colour", shape=t.shape), t.colour, "detail", seen([t]))
        for t in of
    ]


def _colours(difficulty: float) -> tuple[str, ...]:
    return tuple(COLOURS)


def _shapes(difficulty: float) -> tuple[str, ...]:
    return SHAPES


FORMS: dict[str, tuple[Form, ...]] = {
    "attribute": (Form(_attribute, _colours),),
    "shape": (Form(_shape, _shapes),),
    "counting": (Form(_counting, lambda d: tuple(map(str, range(1, most(d) + 1)))),),
    "relation": (Form(_relation, lambda d: ("left", "right", "above", "below")),),
    "position": (
        Form(_where, lambda d: CELLS),
        Form(lambda s, rng: _at("shape", s), _shapes),
        Form(lambda s, rng: _at("colour", s), _colours),
    ),
    "read": (Form(_read), Form(_letter)),
    "chart": (Form(_value, lambda d: tuple(map(str, range(1, TOP + 1)))), Form(_extreme)),
    "describe": (Form(_describe),),
    "negation": (
        Form(_none, lambda d: ("yes", "no")),
        Form(lambda s, rng: _missing("colour", tuple(COLOURS), s, rng), _colours),
        Form(lambda s, rng: _missing("shape", SHAPES, s, rng), _shapes),
    ),
    "detail": (Form(_detail),),
}
#: The kind of scene that each task wants.
KIND_OF = {"read": "signs", "chart": "chart", "detail": "detail"}
