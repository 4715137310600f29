"""The items of the study of videos: the lab's clips of a given number of frames, kept as H.264."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..errors import InputError
from ..lab.evaluate import VIDEO
from ..lab.tasks import Item, generate, load, write
from ..lab.tasks.item import chat
from ..video import open_video
from .exam import sources
from .topic import Topic

#: Tasks by family of the plots.
FAMILIES: dict[str, tuple[str, ...]] = {
    "motion": ("direction", "speed"),
    "moment": ("order", "state", "still"),
    "counting": ("flashes", "cuts"),
    "needle": ("needle",),
    "dialogue_video": ("dialogue_video",),
}
TASKS = VIDEO
LEAST = 8  # frames of a clip
CRF = 8  # of H.264: what is lost cannot be seen
TOGETHER = 320  # frames asked at a time, where that is more than four clips


def topic(frames: int) -> Topic:
    """Clips of so many frames.

    Raises:
        InputError: fewer than eight.
    """
    if frames < LEAST:
        raise InputError(f"'frames' must be at least {LEAST}. Got {frames}.")
    batch = max(4, TOGETHER // frames)
    return Topic(
        "video",
        FAMILIES,
        partial(items_of, frames=frames),
        partial(name, frames=frames),
        opened=opened,
        batch=batch,
        part=batch,
        probes=12,
        timed=4,
        about={"frames": frames},
    )


def items_of(seed: int, n: int, folder: Path, difficulty: float = 0.5, *, frames: int) -> list[tuple[str, Item]]:
    """``n`` items shared out evenly among TASKS, with their tasks; read from ``folder`` if they were made before.

    Raises:
        InputError: fewer items than tasks.
    """
    if n < len(TASKS):
        raise InputError(f"'items' must be at least the number of tasks, {len(TASKS)}. Got {n}.")
    home = folder / name(seed, n, difficulty, frames=frames)
    if not home.is_dir():
        part = home.with_name(home.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        for k, task in enumerate(TASKS):
            count = n // len(TASKS) + (k < n % len(TASKS))
            for item in generate(task, seed, count, difficulty=difficulty, frames=frames):
                write(item, part / task, crf=CRF)
        part.replace(home)
    return [(task, item) for task in TASKS for item in load(home / task)]


def name(seed: int, n: int, difficulty: float, *, frames: int) -> str:
    """What tells these items from others."""
    return f"clips-{n}-{seed}-{difficulty}-{frames}-{sources('lab/tasks', 'bench/clips.py')}"


def opened(item: Item) -> Item:
    """The item with every frame of its file in its messages; a path alone would be sampled."""
    assert item.path is not None
    with open_video(item.path) as video:
        frames = [f.image for f in video.sample(len(item.times))]
    if len(frames) != len(item.times):
        raise InputError(f"{item.path} has {len(frames)} frames instead of {len(item.times)}")
    entry = {"type": "video", "video": frames, "times": list(item.times)}
    return replace(item, messages=chat([entry], item.turns))
