"""A question with its answer, and where on the media the answer can be seen."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import NamedTuple

from .things import Box, Thing


class Evidence(NamedTuple):
    """box: (x0, y0, x1, y1) in pixels. time: (t0, t1) in seconds, for a video."""

    box: Box
    time: tuple[float, float] | None = None


class Turn(NamedTuple):
    """One question. For what is absent, and for comparisons, all that must be looked at is evidence."""

    question: str
    answer: str
    task: str
    evidence: tuple[Evidence, ...] = ()


def seen(things: Iterable[Thing]) -> tuple[Evidence, ...]:
    """The evidence of things of a still."""
    return tuple(Evidence(t.box) for t in things)


def pick(rng: Random, turns: list[Turn]) -> Turn:
    """An answer first, each that occurs as likely as another; then a question that has it."""
    answer = rng.choice(sorted({t.answer for t in turns}))
    return rng.choice([t for t in turns if t.answer == answer])
