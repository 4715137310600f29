"""How often a model is right on freshly made items, task by task, with or without a plan in place."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import memory
from ..apply import apply
from ..ask import plan_of
from ..drawing import slots
from ..errors import InputError
from ..load import Loaded
from ..prompt import Progress, Visual
from ..spec import Plan
from .tasks import TASKS, Item, generate, prior, score
from .tasks.seeds import known

IMAGE = ("attribute", "shape", "counting", "relation", "position", "read", "chart", "describe", "negation", "dialogue")
VIDEO = ("needle", "order", "direction", "speed", "flashes", "state", "cuts", "still", "dialogue_video")
TEXT = ("recall", "copy")
Z = 1.959964  # of a 95% interval


@dataclass
class Tally:
    """What came of the items of a task.

    Attributes:
        scores: of each item, 0 to 1. answers: the right ones.
        evidence: the share of each item's evidence tokens that was kept; empty for texts.
    """

    scores: list[float] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    evidence: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        low, high = wilson(sum(self.scores), len(self.scores))
        return {
            "accuracy": _mean(self.scores),
            "low": low,
            "high": high,
            "n": len(self.scores),
            "prior": prior(self.answers),
            "evidence_kept": _mean(self.evidence) if self.evidence else None,
        }


@dataclass(frozen=True)
class Evaluation:
    """Accuracy over all items and by task.

    Attributes:
        model, plan, seed: what was asked with what. seconds: it took, without making items.
        tokens: visual tokens of a prompt, and tokens kept of them after the inputs and layers, on average.
        said: (task, question, answer, what the model said), in order.
    """

    model: str
    plan: str
    seed: int
    difficulty: float
    tallies: dict[str, Tally]
    seconds: float
    tokens: tuple[float, float]
    said: list[tuple[str, str, str, str]] = field(repr=False)

    @property
    def accuracy(self) -> float:
        """Over all items."""
        return _mean([s for t in self.tallies.values() for s in t.scores])

    @property
    def n(self) -> int:
        return sum(len(t.scores) for t in self.tallies.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: accuracy, n, and tasks with accuracy, low, high and n each, and more."""
        low, high = wilson(self.accuracy * self.n, self.n)
        seen = [e for t in self.tallies.values() for e in t.evidence]
        return {
            "accuracy": self.accuracy,
            "n": self.n,
            "tasks": {name: tally.as_dict() for name, tally in self.tallies.items()},
            "low": low,
            "high": high,
            "evidence_kept": _mean(seen) if seen else None,
            "visual_tokens": self.tokens[0],
            "kept_tokens": self.tokens[1],
            "model": self.model,
            "plan": self.plan,
            "seed": self.seed,
            "difficulty": self.difficulty,
            "seconds": round(self.seconds, 2),
        }


def tasks_for(loaded: Loaded) -> tuple[str, ...]:
    """The tasks a model is asked unless told: those that it can look at."""
    if not loaded.vision:
        return TEXT
    return (*VIDEO, *IMAGE) if loaded.family.startswith("qwen") else IMAGE


def evaluate(
    loaded: Loaded,
    plan: Any = None,
    *,
    seed: int = 0,
    n: int = 500,
    tasks: Sequence[str] | None = None,
    difficulty: float = 0.5,
    frames: int = 16,
    batch: int = 25,
    split: str = "test",
    progress: Progress | None = None,
) -> Evaluation:
    """Ask a model ``n`` freshly made items, shared out evenly among tasks, greedily and in batches.

    Args:
        loaded: what :func:`foveate.load` gave.
        plan: as for :func:`foveate.apply`; None or "none" for the full model.
        seed: of the items; those of the split "test" are never trained on.
        tasks: names of :data:`foveate.lab.tasks.TASKS`; None for those the model was made for.
        difficulty: 0 to 1. frames: of a clip. batch: items asked at a time.
        progress: called with a step's name, how much is done and how much there is.

    Raises:
        InputError: an unknown task, or fewer items than tasks.
        PlanError: a plan that cannot work on this model.
    """
    names = tuple(dict.fromkeys(tasks)) if tasks else tasks_for(loaded)
    for name in names:
        known("task", name, TASKS)
    if n < len(names):
        raise InputError(f"'n' must be at least the number of tasks, {len(names)}. Got {n}.")
    if batch < 1:
        raise InputError(f"'batch' must be at least 1. Got {batch}.")
    steps = plan_of("none" if plan is None else plan, family=loaded.family)
    tallies = {name: Tally() for name in names}
    said, counts, seconds, done = [], [0.0, 0.0], 0.0, 0
    for i, name in enumerate(names):
        items = generate(name, seed, n // len(names) + (i < n % len(names)), split=split, difficulty=difficulty,
                         frames=frames)  # fmt: skip
        for few in _batches(items, batch):
            begun = time.perf_counter()
            texts, evidence, tokens = _ask(loaded, steps, few)
            seconds += time.perf_counter() - begun
            counts = [c + t for c, t in zip(counts, tokens)]
            tally = tallies[name]
            tally.evidence += evidence
            for item, text in zip(few, texts):
                tally.scores.append(score(text, item.answer, item.turns[-1].task))
                tally.answers.append(item.answer)
                said.append((name, item.question, item.answer, text))
            done += len(few)
            if progress is not None:
                progress("asking", done, n)
    per = (counts[0] / max(1, done), counts[1] / max(1, done))
    return Evaluation(loaded.name, str(steps), seed, difficulty, tallies, seconds, per, said)


def _batches(items: Sequence[Item], most: int) -> Iterator[list[Item]]:
    for i in range(0, len(items), most):
        yield list(items[i : i + most])


@torch.inference_mode()
def _ask(loaded: Loaded, plan: Plan, items: Sequence[Item]) -> tuple[list[str], list[float], tuple[float, float]]:
    """Answers to items; the share of evidence kept of each that has some; and visual tokens before and after."""
    longest = max(len(loaded.builder.tokenizer(i.answer, add_special_tokens=False)["input_ids"]) for i in items)
    with memory.explained("a batch of items", "use a smaller batch"):
        prompt = loaded.prompt([i.messages for i in items])
        with apply(loaded.model, plan) as report:
            out = loaded.model.generate(
                **prompt.inputs, max_new_tokens=max(8, longest + 4), do_sample=False, num_beams=1,
                temperature=None, top_p=None, top_k=None,
            )  # fmt: skip
    texts = [t.strip() for t in loaded.decode(out[:, prompt.n :])]
    ended = slots(prompt, report.kept, ("inputs", "layers"))
    evidence, before, after = [], 0.0, 0.0
    for visual in prompt.visuals:
        where = visual.where.cpu()
        kept = ended[visual.row, where] == where
        before, after = before + len(kept), after + float(kept.sum())
        if visual.grid is not None:
            needed = needed_tokens(items[visual.row], visual)
            if bool(needed.any()):
                evidence.append(float(kept.view(visual.grid)[needed].float().mean()))
    return texts, evidence, (before, after)


def needed_tokens(item: Item, visual: Visual) -> Tensor:
    """The tokens on which an item's evidence can be seen, (t, rows, cols) bool."""
    if visual.grid is None:
        raise InputError("the visual tokens of this model form no grid")
    t, rows, cols = visual.grid
    width, height = item.size
    out = torch.zeros(t, rows, cols, dtype=torch.bool)
    step = -(-len(visual.item.frames) // t)
    for (x0, y0, x1, y1), span in item.evidence:
        when = [
            k
            for k in range(t)
            if span is None or any(span[0] <= s < span[1] for s in visual.item.times[k * step : (k + 1) * step])
        ]
        top, bottom = int(y0 / height * rows), math.ceil(y1 / height * rows)
        left, right = int(x0 / width * cols), math.ceil(x1 / width * cols)
        out[when, top:bottom, left:right] = True
    return out


def wilson(right: float, n: int) -> tuple[float, float]:
    """The 95% interval of a share by Wilson's score."""
    if n == 0:
        return 0.0, 1.0
    p, zz = right / n, Z * Z
    middle = (p + zz / (2 * n)) / (1 + zz / n)
    half = Z / (1 + zz / n) * math.sqrt(max(0.0, p * (1 - p)) / n + zz / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
