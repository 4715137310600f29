"""Training data without ceremony: arrays, and many questions on each."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import NamedTuple

import numpy as np

from .asks import FORMS
from .compose import compose
from .draw import pixels
from .film import Clip, compose_clip
from .film_asks import CLIP_FORMS
from .labels import Labels, label
from .past import past
from .seeds import chance, known
from .texture import Pixels
from .things import Scene, Size
from .turn import Turn, pick

#: How often each task is asked, unless told.
IMAGE_MIX = {t: 1.0 for t in FORMS if t not in ("describe", "detail")} | {"describe": 0.15}
VIDEO_MIX = dict.fromkeys(CLIP_FORMS, 1.0)
_SMALL = ("attribute", "shape", "relation", "detail")  # what may be asked besides a small detail


class Picture(NamedTuple):
    """pixels (H, W, 3) uint8; turns: (question, answer, task, evidence); labels of the patches, as from ``dense``."""

    pixels: Pixels
    turns: list[Turn]
    labels: Labels


class Film(NamedTuple):
    """frames (T, H, W, 3) uint8; turns: (question, answer, task, evidence); fps; labels of frames, where asked for."""

    frames: Pixels
    turns: list[Turn]
    fps: float
    labels: list[Labels]


def scene(
    seed: int,
    mix: Mapping[str, float] | None = None,
    size: int | Size = 112,
    difficulty: float = 0.5,
    *,
    turns: int = 10,
    grid: tuple[int, int] | None = None,
    split: str = "train",
) -> Picture:
    """A picture with up to ``turns`` questions (most pictures have as many) and the labels of its patches.

    mix: how often each image task is asked; tasks that are left out are not. A task also decides which kinds of
        pictures are drawn (charts, signs). "describe" is asked first.
    grid: (rows, cols) of patches; patches of 14 pixels unless told.

    Raises:
        InputError: an unknown task or split.
    """
    mix = IMAGE_MIX if mix is None else mix
    for task in mix:
        known("image task", task, FORMS)
    width, height = size if isinstance(size, tuple) else (size, size)
    rng = chance(split, "scene", seed)
    made, asked = _fill(rng, mix, (width, height), difficulty, turns, split)
    return Picture(pixels(made), asked, label(made, grid or (height // 14, width // 14)))


def _fill(
    rng: Random, mix: Mapping[str, float], size: Size, difficulty: float, most: int, split: str
) -> tuple[Scene, list[Turn]]:
    for _ in range(20):
        lead = rng.choices(list(mix), list(mix.values()))[0]
        kind = {"chart": "chart", "detail": "detail"}.get(lead, "signs" if lead == "read" else "shapes")
        made = compose(rng, size, difficulty, kind, split)
        offers = {
            task: [o for form in FORMS[task] if (o := form.ask(made, rng))]
            for task in mix
            if kind != "detail" or task in _SMALL
        }
        asked = ask(rng, mix, offers, most)
        if asked:
            break
    return made, asked


def ask(rng: Random, mix: Mapping[str, float], offers: Mapping[str, list[list[Turn]]], most: int) -> list[Turn]:
    """Up to ``most`` different questions: a task by its weight, one of its forms, an answer, a question."""
    left = {task: [list(turns) for turns in forms] for task, forms in offers.items() if forms and mix[task] > 0}
    out: list[Turn] = []
    said: set[str] = set()
    while left and len(out) < most:
        task = rng.choices(list(left), [mix[t] for t in left])[0]
        form = rng.choice(left[task])
        turn = pick(rng, form)
        form.remove(turn)
        if not form:
            left[task].remove(form)
            if not left[task]:
                del left[task]
        if task == "counting" and turn.answer == "1" and rng.random() < 0.8:
            continue  # most things stand alone, and a model that always says so would be right too often
        if turn.question not in said:
            said.add(turn.question)
            out.append(turn)
    return sorted(out, key=lambda t: t.task != "describe")


def clip(
    seed: int,
    mix: Mapping[str, float] | None = None,
    size: int | Size = 112,
    frames: int = 16,
    difficulty: float = 0.5,
    *,
    fps: float = 8,
    turns: int = 8,
    grid: tuple[int, int] | None = None,
    told: bool = False,
    split: str = "train",
) -> Film:
    """A clip with up to ``turns`` questions.

    grid: also give the labels of every frame. told: and among them what has happened so far.

    Raises:
        InputError: an unknown task or split.
    """
    mix = VIDEO_MIX if mix is None else mix
    for task in mix:
        known("video task", task, CLIP_FORMS)
    width, height = size if isinstance(size, tuple) else (size, size)
    rng = chance(split, "clip", seed)
    made, asked = _play(rng, mix, (width, height), frames, fps, difficulty, turns, split)
    shots = [made.at(i) for i in range(frames)]
    labels = [label(s, grid) | (past(made, i, grid) if told else {}) for i, s in enumerate(shots)] if grid else []
    return Film(np.stack([pixels(s) for s in shots]), asked, fps, labels)


def _play(
    rng: Random, mix: Mapping[str, float], size: Size, n: int, fps: float, difficulty: float, most: int, split: str
) -> tuple[Clip, list[Turn]]:
    for _ in range(20):
        lead = rng.choices(list(mix), list(mix.values()))[0]
        made = compose_clip(rng, size, n, fps, difficulty, lead if rng.random() < 0.3 else None, split)
        asked = ask(rng, mix, {task: [o] if (o := CLIP_FORMS[task].ask(made)) else [] for task in mix}, most)
        if asked:
            break
    return made, asked
