"""How right models of the lab stay when the cache is shortened or packed, on tasks that read it after the prefill.

The first word of an answer comes from the prefill, which no cache policy touches. So the tasks are those whose answers
go on (descriptions, words letter by letter), and conversations: there the cache is shortened when the first question is
asked, and the last one is asked of what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...apply import apply
from ...lab.tasks import Item, generate
from ...load import Loaded, load
from .. import exam, study
from ..desk import FULL, weights
from ..held_to import SOLVED
from ..kept_lines import in_a_line
from ..paired import difference, mean, named, rounded, share
from . import ladder
from .fill import held_bytes
from .once import Once


@dataclass(frozen=True)
class Subject:
    """A model and what it is asked: tasks with the number of items, and the tokens of a prompt, about."""

    model: str
    tasks: tuple[tuple[str, int], ...]
    n: int = 160


#: Texts are asked of every model; where the full model cannot do them, nothing can be learned from policies.
TEXTS = (("recall", 24), ("copy", 24))
SUBJECTS = (Subject("lab/image", (("describe", 16), ("read", 32), ("dialogue", 48), *TEXTS)),)


def made(subject: Subject, seed: int, scale: float) -> list[tuple[str, Item]]:
    """The items of a subject with their tasks, ``scale`` times as many."""
    out = []
    for task, count in subject.tasks:
        out += [(task, item) for item in generate(task, seed, max(1, round(scale * count)))]
    return out


def rows(
    subject: Subject, seed: int, scale: float, keeps: tuple[float, ...], only: tuple[str, ...], folder: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One row for each plan, the full model first; and what was left out, with the reason."""
    loaded, once = load(subject.model), Once(folder, "lab")
    about: list[Any] = ["lab", subject.model, weights(loaded), [list(t) for t in subject.tasks], seed, scale]
    about.append(exam.sources("lab/tasks"))
    found = made(subject, seed, scale)
    left: dict[str, str] = {}
    ready = exam.prepare(loaded, found)

    def ask(plan: str) -> dict[str, Any]:
        got: dict[str, Any] = once.get(about, plan, lambda: _asked(ready, loaded, plan))
        return got

    full = ask("")
    right = study.scores(full["said"], ready.items)
    for task, _ in subject.tasks:
        got = mean([r for r, t in zip(right, ready.tasks) if t == task])
        if got < SOLVED:
            left[task] = f"{subject.model} itself is right {got:.0%} of the time, so policies cannot be told apart"
    tasks = _places(ready, left)
    out = [_row(subject, FULL, FULL, "", None, full, tasks, ready, None)]
    if not tasks["overall"]:
        return out, left
    if left:  # what the model cannot do is not asked again
        solved = [pair for pair in found if pair[0] not in left]
        about.append(sorted(left))
        ready = exam.prepare(loaded, solved)
        tasks = _places(ready, left)
        right = study.scores(ask("")["said"], ready.items)
    for kind, plan, keep in ladder.plans(subject.n, keeps, only):
        try:
            answers = ask(plan)
        except Exception as error:  # one method's fault must not end the study; it is named in the results
            left[plan] = in_a_line(error)
            continue
        name = plan.split("(")[0] if " + " not in plan else plan
        out.append(_row(subject, kind, name, plan, keep, answers, tasks, ready, right))
        cell = out[-1]["tasks"]["overall"]
        print(f"  {subject.model} {plan}: {cell['accuracy']:.2f} at {out[-1]['bytes']:.0%} of the bytes", flush=True)
    return out, left


def _places(ready: exam.Exam, left: dict[str, str]) -> dict[str, list[int]]:
    """The items of each task that was not left out, and of all these."""
    names = [t for t in dict.fromkeys(ready.tasks) if t not in left]
    out = {t: [i for i, name in enumerate(ready.tasks) if name == t] for t in names}
    return out | {"overall": [i for at in out.values() for i in at]}


def _asked(ready: exam.Exam, loaded: Loaded, plan: str) -> dict[str, Any]:
    sheet = exam.ask(ready, loaded, plan)
    probe = loaded.prompt([ready.items[0].messages[:1]]).inputs
    return {"said": sheet.said, "bytes": share_held(loaded.model, probe, plan)}


@torch.inference_mode()
def share_held(model: Any, inputs: dict[str, Any], plan: str) -> float:
    """Bytes that the cache's storages hold after a prefill, as a share of transformers' own."""
    whole = held_bytes(model(**inputs, use_cache=True, logits_to_keep=1).past_key_values)
    with apply(model, plan):
        return held_bytes(model(**inputs, use_cache=True, logits_to_keep=1).past_key_values) / whole


def _row(
    subject: Subject,
    kind: str,
    method: str,
    plan: str,
    keep: float | None,
    got: dict[str, Any],
    tasks: dict[str, list[int]],
    ready: exam.Exam,
    full: Sequence[float] | None,
) -> dict[str, Any]:
    mine = study.scores(got["said"], ready.items)
    cells = {}
    for task, at in tasks.items():
        some = [mine[i] for i in at]
        cells[task] = {"n": len(at), **share(some)}
        if full is not None:
            cells[task] |= named("loss", difference([full[i] for i in at], some))
    about = {"part": "lab", "model": subject.model, "kind": kind, "method": method, "plan": plan, "keep": keep}
    return about | rounded({"bytes": got["bytes"]}) | {"tasks": cells}
