"""What the lab's models are trained on: pictures, clips and texts with many questions each, made while training.

A batch depends only on the seed, the stage and the number of the step, so a run can be interrupted and go on with the
data it would have had. Worker processes make steps in turn; their number changes nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from . import tokenizer
from .models import Sizes
from .tasks import IMAGE_MIX, VIDEO_MIX, Turn, clip, generate, scene
from .tasks.past import CLASSES as PAST

CELL = 7  # pixels on the side of a cell with labels of its own
WHAT = ("colour", "shape", "letter")
#: Sizes (width, height) of pictures that the video model sees; it takes any.
PICTURES = ((168, 168), (168, 168), (112, 112), (224, 168), (168, 224))
#: What is learned slowly is asked more often: letters most of all.
PICTURE_MIX = {**IMAGE_MIX, "read": 4.0, "counting": 2.0, "chart": 1.5}
DETAIL = {"detail": 3.0, "attribute": 1.0, "shape": 1.0, "relation": 1.0}
#: How often a step is of each kind, once all is trained.
SHARES = {"image": {"image": 0.96, "text": 0.04}, "video": {"video": 0.6, "image": 0.35, "text": 0.05}}
#: The same with a teacher: it looks at pictures in the dense stage, and its decoder knows them in the joint stage.
TAUGHT = {
    "dense": {"image": 0.75, "video": 0.25},
    "joint": {"video": 0.74, "image": 0.16, "text": 0.1},  # a step with texts costs a fifth of one with clips
}


class Batch(NamedTuple):
    """B pictures, clips or texts.

    Attributes:
        kind: "image", "video" or "text".
        pixels: (B, T, H, W, 3) uint8, T = 1 for pictures; empty for texts.
        ids, mask: (B, n) int64, padded on the right; empty while only the tower is trained.
        answer: (B, n) int64: to which answer of the batch a token belongs, or -1.
        tasks: of each answer.
        labels: "colour", "shape" and "letter" of every cell of 7 pixels, (B, T, H / 7, W / 7) int8; of clips in the
            joint stage also what has happened so far.
        step_seconds: seconds between two visual tokens of a clip.
    """

    kind: str
    pixels: Tensor
    ids: Tensor
    mask: Tensor
    answer: Tensor
    tasks: list[str]
    labels: dict[str, Tensor]
    step_seconds: float = 1.0

    @property
    def rows(self) -> int:
        """B."""
        return len(self.pixels) or len(self.ids)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved = {k: getattr(self, k).to(device, non_blocking=True) for k in ("pixels", "ids", "mask", "answer")}
        labels = {k: v.to(device, non_blocking=True) for k, v in self.labels.items()}
        return self._replace(**moved, labels=labels)


class Sight(NamedTuple):
    """One picture or clip, before it is put into a batch."""

    pixels: Any
    turns: Sequence[Turn]
    labels: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Diet:
    """What is served at each step.

    Attributes:
        kind, sizes: of the model.
        stage: "dense" (the tower alone, no questions) or "joint".
        batch: pictures in a step; clips are a third as many.
        turns: most questions on one picture.
        ramp: pictures over which difficulty rises and descriptions become rare.
        side: pixels on the side of the pictures that a teacher looks at; 0 without one.
    """

    kind: str
    sizes: Sizes
    stage: str
    seed: int = 0
    batch: int = 48
    turns: int = 8
    ramp: int = 60_000
    side: int = 0

    def ease(self, step: int) -> float:
        """How far the curriculum has come, 0 to 1."""
        return min(1.0, step * self.batch / self.ramp)

    def make(self, step: int) -> Batch:
        """The batch of a step."""
        rng = Random(f"{self.seed}/{self.stage}/{step}")
        shares = TAUGHT[self.stage] if self.side else SHARES[self.kind]
        kind = rng.choices(list(shares), list(shares.values()))[0]
        if kind == "text":
            kind = "image" if self.stage == "dense" else "text"
        return self._texts(step, rng) if kind == "text" else self._sights(kind, step, rng)

    @property
    def _taught(self) -> bool:
        return self.stage == "dense" and self.side > 0

    @property
    def told(self) -> bool:
        """Whether clips are labelled with what has happened so far: once a decoder is there to read it."""
        return self.stage == "joint"

    def _number(self, step: int, i: int) -> int:
        """A seed that no other scene of any run shares."""
        return ((2 * self.seed + (self.stage == "joint")) << 48) + (step << 12) + i

    def _sights(self, kind: str, step: int, rng: Random) -> Batch:
        token, temporal = self.sizes.token, self.sizes.temporal
        if self.kind == "image":
            size, detail = (self.sizes.side, self.sizes.side), False
        else:
            detail = kind == "image" and rng.random() < 0.08 and not self._taught
            size = (336, 336) if detail else (self.side, self.side) if self._taught else rng.choice(PICTURES)
        frames, fps = 1, 8.0
        if kind == "video":
            size = (self.sizes.side, self.sizes.side)
            frames, fps = (8 if self.stage == "dense" else rng.choice(self.sizes.frames)), rng.choice((4.0, 8.0))
        few = kind == "video" or detail
        top = 0.1 + 0.6 * self.ease(step)
        sights = []
        for i in range(max(1, self.batch // (3 if few else 1))):
            hard = top * (1 if rng.random() < 0.3 else rng.random())
            made = self._clip if kind == "video" else self._picture
            sights.append(made(self._number(step, i), size, hard, step, frames, fps, detail))
        tokens = -(-frames // temporal) * (size[0] // token) * (size[1] // token)
        turns = [s.turns for s in sights] if self.stage == "joint" else []
        ids, mask, answer, tasks = _rows(turns, tokenizer.VIDEO if kind == "video" else tokenizer.IMAGE, tokens)
        pixels = torch.from_numpy(np.stack([s.pixels for s in sights]))
        names = (*WHAT, *PAST) if kind == "video" and self.told else WHAT
        labels = {
            k: torch.from_numpy(np.stack([[f[k] for f in s.labels] for s in sights]).astype(np.int8)) for k in names
        }
        return Batch(kind, pixels, ids, mask, answer, tasks, labels, temporal / fps)

    def _picture(self, number: int, size: tuple[int, int], hard: float, step: int, *rest: Any) -> Sight:
        told = 2.0 - 1.85 * self.ease(step)
        mix = DETAIL if rest[-1] else {**PICTURE_MIX, "describe": told}
        made = scene(number, mix, size, hard, turns=self.turns, grid=_grid(size))
        return Sight(made.pixels[None], made.turns, [made.labels])

    def _clip(
        self, number: int, size: tuple[int, int], hard: float, step: int, frames: int, fps: float, *_: Any
    ) -> Sight:
        grid = _grid(size)
        made = clip(number, VIDEO_MIX, size, frames, hard, fps=fps, turns=self.turns, grid=grid, told=self.told)
        return Sight(made.frames, made.turns, made.labels)

    def _texts(self, step: int, rng: Random) -> Batch:
        rows = []
        for i in range(self.batch if self.side else max(1, self.batch // 2)):
            task = rng.choice(("recall", "copy"))
            length = rng.randint(30, 60 + round(140 * self.ease(step))) if task == "recall" else rng.randint(3, 16)
            rows += [generate(task, self._number(step, i), 1, split="train", length=length)[0].turns]
        ids, mask, answer, tasks = _rows(rows, None, 0)
        return Batch("text", torch.empty(0, dtype=torch.uint8), ids, mask, answer, tasks, {})


def _grid(size: tuple[int, int]) -> tuple[int, int]:
    return size[1] // CELL, size[0] // CELL


def _rows(turns: Sequence[Sequence[Turn]], visual: str | None, tokens: int) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Conversations -> ids, mask and answer numbers (B, n), padded on the right, and the task of each answer."""
    rows: list[list[int]] = []
    owners: list[list[int]] = []
    tasks: list[str] = []
    for asked in turns:
        row, owner = tokenizer.conversation([(t.question, t.answer) for t in asked], visual, tokens)
        rows.append(row)
        owners.append([o + len(tasks) if o >= 0 else -1 for o in owner])
        tasks += [t.task for t in asked]
    n = max(map(len, rows), default=0)
    pad = tokenizer.entries()[tokenizer.PAD]

    def padded(of: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([r + [fill] * (n - len(r)) for r in of], dtype=torch.int64)

    return padded(rows, pad), padded([[1] * len(r) for r in rows], 0), padded(owners, -1), tasks


class Feed(IterableDataset[Batch]):
    """The batches of a diet from step ``first`` on, without an end."""

    def __init__(self, diet: Diet, first: int = 0):
        self.diet, self.first = diet, first

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        step, stride = (self.first, 1) if worker is None else (self.first + worker.id, worker.num_workers)
        while True:
            yield self.diet.make(step)
            step += stride


def serve(diet: Diet, first: int, workers: int, pin: bool = False) -> Iterator[Batch]:
    """Batches in order of their steps. workers: processes that make them; 0 makes them here."""
    loader: DataLoader[Batch] = DataLoader(
        Feed(diet, first),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start,
        pin_memory=pin,
    )
    return iter(loader)


def _start(worker: int) -> None:
    """Signals are the trainer's to handle; a worker ends when it is told to by the loader."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def default_workers(device: torch.device) -> int:
    """Half the cores beside a CPU that trains, all but two beside a GPU; at least one, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores // 2 if device.type == "cpu" else cores - 2))
