"""How often the lab's masked-diffusion model is right, and how many forwards each answer took; and its card."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from . import tokenizer
from .diffusion import CANVAS, TASKS, ids, prompt, stacked
from .tasks import generate as items_of
from .tasks import score


class Asked(NamedTuple):
    """Of each item: its score, and the forwards its row needed. positions: read over all rows; seconds: of decoding."""

    scores: list[float]
    forwards: list[int]
    positions: int
    seconds: float


def questions(task: str, n: int, seed: int, split: str = "test") -> tuple[Tensor, Tensor, list[str]]:
    """``n`` prompts of a task as one table, its mask, and their answers."""
    made = items_of(task, seed, n, split=split, length=TASKS[task][2])
    return *stacked([prompt(item.question) for item in made]), [item.answer for item in made]


def evaluate(model: Any, task: str, *, n: int, seed: int = 0, rows: int = 25, **options: Any) -> Asked:
    """Ask ``n`` new items of a task, ``rows`` at a time.

    Rows do not influence each other, and a row that is not complete fills something at every forward; so the forwards
    in which it did are what it would have needed alone.

    options: of :func:`foveate.diffusion.generate`; length and block are the canvas unless told.
    """
    from ..diffusion import generate

    words, end = tokenizer.make(), ids()["eos"]
    table, mask, answers = questions(task, n, seed)
    scores, forwards, positions, seconds = [], [], 0, 0.0
    for start in range(0, n, rows):
        some, seen = table[start : start + rows].to(model.device), mask[start : start + rows].to(model.device)
        out = generate(model, some, attention_mask=seen, **{"length": CANVAS, "block": CANVAS, **options})
        positions, seconds = positions + out.report.positions, seconds + out.report.seconds
        forwards += [len(set(row)) for row in out.filled[:, some.shape[1] :].tolist()]
        for row, answer in zip(out.ids[:, some.shape[1] :].tolist(), answers[start:]):
            said = row[: row.index(end)] if end in row else row
            scores.append(score(words.decode(said), answer, task))
    return Asked(scores, forwards, positions, seconds)


def card(parameters: int, log: dict[str, Any]) -> str:
    """The model card in Markdown."""
    rows = "\n".join(f"| {task} | {value:.3f} | {log['items']} |" for task, value in log["accuracy"].items())
    return f"""---
license: apache-2.0
library_name: transformers
---

# lab/diffusion

A masked-diffusion language model of {parameters / 1e6:.1f} million parameters: Llama's architecture, read to both
sides. It answers two kinds of questions about texts, one token at a forward or many, decoded by
`foveate.diffusion.generate`.

Made by `foveate lab train diffusion`: {log["steps"]:,} steps, {log["seconds"] / 60:.1f} minutes, on procedural texts
that were made while training. No text of people, no other model's output. Items asked share no seed with those trained
on.

| task | accuracy, one token at a forward | items |
|---|---|---|
{rows}

It knows the lab's words and these two tasks and nothing else: it is there to measure how many forwards a schedule
saves at which accuracy, not to be talked to.
"""
