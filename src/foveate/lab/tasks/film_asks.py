"""Every question that can be asked of a clip, each with its answer read off the clip's data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import NamedTuple

from .film import Actor, Clip, most_cuts, most_flashes
from .turn import Evidence, Turn
from .words import ASK, COLOURS, SHAPES, THIRDS, WAYS


class ClipForm(NamedTuple):
    """ask: all such questions of a clip. answers: the closed set of answers for n frames, or () for open ones."""

    ask: Callable[[Clip], list[Turn]]
    answers: Callable[[int], tuple[str, ...]] = lambda n: ()


def _say(key: str, **names: str) -> str:
    return ASK[key][0].format(**names)


def _path(clip: Clip, actor: Actor) -> Evidence:
    """Where and when an actor moves."""
    return Evidence(actor.swept, clip.span(actor.window[0], actor.window[1] + 1))


def _needle(clip: Clip) -> list[Turn]:
    return [
        Turn(_say("read"), t.text, "needle", (Evidence(t.box, clip.span(start, end)),)) for start, end, t in clip.spells
    ]


def _order(clip: Clip) -> list[Turn]:
    come = [a for a in clip.actors if a.role == "comer"]
    out = []
    for a, b in permutations(come, 2):
        first = a if a.born < b.born else b
        seen = tuple(Evidence(c.box, clip.span(c.born, clip.n)) for c in sorted((a, b), key=lambda c: c.born))
        out.append(Turn(_say("order", a=a.shape, b=b.shape), first.shape, "order", seen))
    return out


def _direction(clip: Clip) -> list[Turn]:
    move = [a for a in clip.actors if a.way]
    return [Turn(_say("direction", shape=a.shape), a.way, "direction", (_path(clip, a),)) for a in move]


def _speed(clip: Clip) -> list[Turn]:
    """Of two that move all the time, one at least twice as fast."""
    move = [a for a in clip.actors if a.way and a.window == (0, clip.n - 1)]
    out = []
    for a, b in permutations(move, 2):
        fast, slow = (a, b) if a.reach > b.reach else (b, a)
        if fast.reach >= 2 * slow.reach:
            seen = (_path(clip, fast), _path(clip, slow))
            out.append(Turn(_say("speed", a=a.shape, b=b.shape), fast.shape, "speed", seen))
    return out


def _flashes(clip: Clip) -> list[Turn]:
    whole = (0, 0, *clip.size)
    seen = tuple(Evidence(whole, clip.span(a, b)) for a, b in clip.flashes) or (Evidence(whole, clip.span(0, clip.n)),)
    return [Turn(_say("flashes"), str(len(clip.flashes)), "flashes", seen)]


def _state(clip: Clip) -> list[Turn]:
    return [
        Turn(_say("state", shape=a.shape), a.colours[-1][1], "state",
             (Evidence(a.box, clip.span(a.colours[-1][0], clip.n)),))
        for a in clip.actors
        if a.role == "lamp"
    ]  # fmt: skip


def _cuts(clip: Clip) -> list[Turn]:
    ends = [start for start, _ in clip.looks[1:]] + [clip.n]
    seen = tuple(Evidence((0, 0, *clip.size), clip.span(start, end)) for (start, _), end in zip(clip.looks, ends))
    return [Turn(_say("cuts"), str(len(clip.looks)), "cuts", seen)]


def _still(clip: Clip) -> list[Turn]:
    out = []
    for a in clip.actors:
        if a.role == "burst":
            third = min(2, 3 * sum(a.window) // (2 * clip.n))
            out.append(Turn(_say("still", shape=a.shape), THIRDS[third], "still", (_path(clip, a),)))
    return out


CLIP_FORMS: dict[str, ClipForm] = {
    "needle": ClipForm(_needle),
    "order": ClipForm(_order, lambda n: SHAPES),
    "direction": ClipForm(_direction, lambda n: tuple(WAYS)),
    "speed": ClipForm(_speed, lambda n: SHAPES),
    "flashes": ClipForm(_flashes, lambda n: tuple(map(str, range(most_flashes(n) + 1)))),
    "state": ClipForm(_state, lambda n: tuple(COLOURS)),
    "cuts": ClipForm(_cuts, lambda n: tuple(map(str, range(1, most_cuts(n) + 1)))),
    "still": ClipForm(_still, lambda n: THIRDS),
}
