"""The registry of tasks, and items of each, made from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, TypeVar

from ...errors import InputError
from .asks import FORMS, KIND_OF
from .compose import compose
from .film import Clip, compose_clip
from .film_asks import CLIP_FORMS
from .item import Item, chat, of_clip, of_scene
from .seeds import chance, known
from .text import copy, recall
from .things import Scene, Size
from .turn import Turn, pick

S = TypeVar("S", Scene, Clip)
TRIES = 120  # layouts tried for the answer wanted, before any answer will do
GROUNDS = ("texture", "photos")
Place = tuple[int, int]  # the seed, and the number of an item


class Task(NamedTuple):
    """family: "image", "video", "multiturn" or "text". doc: what is asked."""

    family: str
    doc: str


TASKS: dict[str, Task] = {
    "attribute": Task("image", "the colour of a shape"),
    "shape": Task("image", "the shape of a colour"),
    "counting": Task("image", "how many shapes: all, of one colour, of one kind"),
    "relation": Task("image", "left or right of, above or below another shape"),
    "position": Task("image", "in which of 3 x 3 cells a shape is, or what is in a cell"),
    "read": Task("image", "what a sign says, or which letter a shape carries: 1 to 6 letters, several sizes"),
    "chart": Task("image", "the value of a bar, or which bar is highest or lowest"),
    "describe": Task("image", "every object with colour, shape, text and cell, line by line"),
    "negation": Task("image", "whether something is not there, and which of three colours or shapes is missing"),
    "detail": Task("image", "a small shape or sign in a picture of high resolution"),
    "needle": Task("video", "the word on a sign shown for one moment"),
    "order": Task("video", "which of two shapes appears first"),
    "direction": Task("video", "which way a shape moves"),
    "speed": Task("video", "which of two shapes is faster"),
    "flashes": Task("video", "how many times the light flashes"),
    "state": Task("video", "the colour at the end of a shape that changes colour"),
    "cuts": Task("video", "how many scenes there are"),
    "still": Task("video", "in which third of a video, static otherwise, a shape moves"),
    "dialogue": Task("multiturn", "several questions on one picture, of a different task each"),
    "dialogue_video": Task("multiturn", "several questions on one video, of a different task each"),
    "recall": Task("text", "a code told once in a long text, among other codes"),
    "copy": Task("text", "words or letters to be said again"),
}


@dataclass(frozen=True)
class Recipe:
    """What :func:`generate` was asked for."""

    size: Size
    difficulty: float
    frames: int
    fps: float
    length: int | None
    turns: int
    split: str
    photos: bool

    def scene(self, rng: Random, kind: str) -> Scene:
        return compose(rng, self.size, self.difficulty, kind, self.split, self.photos)

    def clip(self, rng: Random, task: str | None) -> Clip:
        return compose_clip(rng, self.size, self.frames, self.fps, self.difficulty, task, self.split, self.photos)


def generate(
    task: str,
    seed: int,
    n: int,
    *,
    split: str = "test",
    size: int | Size | None = None,
    difficulty: float = 0.5,
    frames: int = 16,
    fps: float = 8,
    length: int | None = None,
    turns: int = 4,
    ground: str = "texture",
) -> list[Item]:
    """``n`` items of a task. The same arguments give the same items; item i does not depend on n.

    Of closed answers each is wanted equally often, so no answer can be guessed from the task.

    task: one of ``TASKS``. split: "train" or "test"; they share no seed, no scene and no background.
    size: side, or (width, height), in pixels; 168 unless told, 336 for "detail", 112 for videos.
    difficulty: 0 to 1: more shapes, clutter, noise and occlusion, longer and smaller text.
    frames, fps: of a video. length: words of a text (200), or entries to copy (12). turns: of a dialogue, at most.
    ground: "texture" (drawn), or "photos" (scikit-image's, where it is installed).

    Raises:
        InputError: an unknown task, split or ground, or a value out of range.
    """
    known("task", task, TASKS)
    known("ground", ground, GROUNDS)
    family = TASKS[task].family
    video = family == "video" or task == "dialogue_video"
    side = size if size is not None else 112 if video else 336 if task == "detail" else 168
    asked = side if isinstance(side, tuple) else (side, side)
    _check(asked, difficulty, frames, fps, n, turns)
    recipe = Recipe(asked, difficulty, frames, fps, length, turns, split, ground == "photos")
    make = _MAKERS.get(task) or (_video if video else _image)
    return [make(chance(split, task, seed, i), task, recipe, (seed, i)) for i in range(n)]


def _check(size: Size, difficulty: float, frames: int, fps: float, n: int, turns: int) -> None:
    if min(size) < 84 or max(size) > 4096:
        raise InputError(f"'size' must be from 84 to 4096 pixels a side. Got {size[0]}x{size[1]}.")
    if not 0 <= difficulty <= 1:
        raise InputError(f"'difficulty' must be in 0..1. Got {difficulty}.")
    if frames < 8:
        raise InputError(f"'frames' must be at least 8. Got {frames}.")
    if not fps > 0 or n < 0 or turns < 1:
        raise InputError(f"'fps' must be above 0, 'n' not below 0, 'turns' at least 1. Got {fps}, {n}, {turns}.")


def _image(rng: Random, task: str, recipe: Recipe, place: Place) -> Item:
    form = FORMS[task][place[1] % len(FORMS[task])]
    target = _turn(recipe, task, (place[0], place[1] // len(FORMS[task])), form.answers(recipe.difficulty))

    def draw() -> tuple[Scene, list[Turn]]:
        kind = "signs" if task == "describe" and rng.random() < 0.3 else KIND_OF.get(task, "shapes")
        scene = recipe.scene(rng, kind)
        return scene, form.ask(scene, rng)

    scene, turn = _search(rng, target, draw)
    return of_scene(scene, "image", task, [turn])


def _video(rng: Random, task: str, recipe: Recipe, place: Place) -> Item:
    form = CLIP_FORMS[task]
    target = _turn(recipe, task, place, form.answers(recipe.frames))

    def draw() -> tuple[Clip, list[Turn]]:
        clip = recipe.clip(rng, task)
        return clip, form.ask(clip)

    clip, turn = _search(rng, target, draw)
    return of_clip(clip, "video", task, [turn])


def _turn(recipe: Recipe, task: str, place: Place, answers: tuple[str, ...]) -> str | None:
    """The answer wanted of an item: of as many items as there are answers, each has another."""
    if not answers:
        return None
    seed, i = place
    order = chance(recipe.split, "answers", task, seed, i // len(answers)).sample(answers, len(answers))
    return order[i % len(answers)]


def _search(rng: Random, target: str | None, draw: Callable[[], tuple[S, list[Turn]]]) -> tuple[S, Turn]:
    """Layouts until one can be asked for the wanted answer; one with another answer when there is none."""
    spare: tuple[S, Turn] | None = None
    for _ in range(TRIES):
        source, turns = draw()
        right = [t for t in turns if target in (None, t.answer)]
        if right:
            return source, rng.choice(right)
        if turns and spare is None:
            spare = source, pick(rng, turns)
    if spare is None:
        raise InputError("no scene of this size and difficulty can be asked this; make it larger or easier")
    return spare


def several(rng: Random, offers: dict[str, list[Turn]], most: int) -> list[Turn]:
    """At most one question of each task, in random order."""
    tasks = [t for t, turns in offers.items() if turns]
    return [pick(rng, offers[t]) for t in rng.sample(tasks, min(most, len(tasks)))]


def offered(scene: Scene, rng: Random) -> dict[str, list[Turn]]:
    """All questions of a picture by task, each form with a part of them, without descriptions."""
    tasks = ("attribute", "shape", "counting", "relation", "position", "read", "chart", "negation")
    return {t: [turn for form in FORMS[t] for turn in form.ask(scene, rng)] for t in tasks}


def _dialogue(rng: Random, task: str, recipe: Recipe, place: Place) -> Item:
    for _ in range(TRIES):
        scene = recipe.scene(rng, "shapes")
        turns = several(rng, offered(scene, rng), recipe.turns)
        if len(turns) >= min(recipe.turns, 4):
            break
    return of_scene(scene, "multiturn", task, turns)


def _dialogue_video(rng: Random, task: str, recipe: Recipe, place: Place) -> Item:
    for _ in range(TRIES):
        clip = recipe.clip(rng, None)
        turns = several(rng, {t: form.ask(clip) for t, form in CLIP_FORMS.items()}, recipe.turns)
        if len(turns) >= min(recipe.turns, 4):
            break
    return of_clip(clip, "multiturn", task, turns)


def _recall(rng: Random, task: str, recipe: Recipe, place: Place) -> Item:
    text, turns = recall(rng, recipe.length or 200, recipe.difficulty)
    turn = rng.choice(turns)
    asked = turn._replace(question=f"{text} {turn.question}")
    return Item(task, "text", chat([], [asked]), turn.answer, (), turns=(asked,))


def _copy(rng: Random, task: str, recipe: Recipe, place: Place) -> Item:
    turn = copy(rng, recipe.length or 12)
    return Item(task, "text", chat([], [turn]), turn.answer, (), turns=(turn,))


_MAKERS: dict[str, Callable[[Random, str, Recipe, Place], Item]] = {
    "dialogue": _dialogue,
    "dialogue_video": _dialogue_video,
    "recall": _recall,
    "copy": _copy,
}
