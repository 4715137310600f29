"""Schedules of masked-diffusion decoding on the lab's model: forwards saved, and what that does to its answers.

    python -m foveate.bench diffusion --n 100

The slow run fills one position at a forward. Every schedule answers the same items; a row's forwards are those in which
it filled something, which is what it would have needed alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..builtin import lab
from ..diffusion import learn
from ..lab import diffusion as recipe
from ..lab.diffusion_eval import evaluate, questions
from . import results

SLOW = "lowconfidence"
#: Schedules, caches and options that are compared; the first is the slow run.
PLANS: tuple[tuple[str, dict[str, Any]], ...] = (
    (SLOW, {}),
    (SLOW, {"steps": 6}),
    ("threshold(confidence=0.9)", {}),
    ("threshold(confidence=0.7)", {}),
    ("factor(factor=1.0)", {}),
    ("localleap(confidence=0.9, relaxed=0.6, radius=4)", {}),
    ("creditdecoding(confidence=0.9)", {}),
    ("dparallel(entropy=0.5)", {}),
    ("adablock(delimiters=[{eos}], share=1.0)", {"block": 8}),
    ("learn2pd(filter='{filter}', accept=0.96)", {}),
    ("threshold(confidence=0.9)", {"block": 8}),
    ("threshold(confidence=0.9)", {"block": 8, "cache": "prefix"}),
    ("threshold(confidence=0.9)", {"block": 8, "cache": "dual"}),
    ("threshold(confidence=0.9)", {"block": 8, "stop": "text"}),
)
CUT, LOST, RIGHT = 4.0, 0.01, 0.9  # what the goals ask for


def add(what: Any) -> None:
    """The command's arguments."""
    one = what.add_parser("diffusion", help="masked-diffusion schedules: forwards against accuracy")
    one.add_argument("--out", type=Path, default=Path("results/diffusion.json"))
    one.add_argument("--model", default="lab/diffusion", help="its folder, or lab/diffusion")
    one.add_argument("--n", type=int, default=100, help="items of each task")
    one.add_argument("--seed", type=int, default=5)
    one.add_argument("--small", action="store_true", help="an untrained tiny model: a dry run in seconds")


def main(args: argparse.Namespace) -> None:
    """Run the study and write its results."""
    model = recipe.make(recipe.SMALL).eval() if args.small else _load(args.model)
    with tempfile.TemporaryDirectory() as folder:
        rows = study(
            model, args.n, args.seed, Path(folder) / "filter.safetensors", *((2, 20) if args.small else (40, 600))
        )
    results.save(args.out, args.seed, rows, goals(rows), model="untrained" if args.small else args.model)
    for row in rows:
        print(f"{row['accuracy']:.3f} right, {row['forwards']:5.1f} forwards (cut {row['cut']:.1f} x)  {row['plan']}")
    print(f"wrote {args.out}")


def _load(name: str) -> Any:
    from transformers import AutoModelForCausalLM

    folder = lab(name) if name == "lab/diffusion" else Path(name)
    return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, trust_remote_code=False).eval()


def study(model: Any, n: int, seed: int, filter_file: Path, lessons: int, steps: int) -> list[dict[str, Any]]:
    """One row for each plan. The filter of Learn2PD is trained for ``steps`` on ``lessons`` prompts of each task."""
    made = [questions(task, lessons, seed, "train")[:2] for task in recipe.TASKS]
    canvas = recipe.CANVAS
    parts = [
        learn.collect(model, [t.to(model.device)], attention_mask=m.to(model.device), length=canvas, block=canvas)
        for t, m in made
    ]
    lesson = learn.Lesson(*(torch.cat(x) for x in zip(*((p.confidence, p.final, p.masked) for p in parts))))
    learn.fit(lesson, steps=steps, seed=seed).save(filter_file)
    rows: list[dict[str, Any]] = []
    for text, options in PLANS:
        schedule = text.format(eos=recipe.ids()["eos"], filter=filter_file)
        asked = {task: evaluate(model, task, n=n, seed=seed, schedule=schedule, **options) for task in recipe.TASKS}
        shown = text.format(eos=recipe.ids()["eos"], filter="filter.safetensors")
        plan = ", ".join([shown, *(f"{k}={v}" for k, v in options.items())])
        scores = [s for a in asked.values() for s in a.scores]
        forwards = [f for a in asked.values() for f in a.forwards]
        row: dict[str, Any] = {
            "plan": plan,
            "accuracy": _mean(scores),
            "by_task": {task: _mean(a.scores) for task, a in asked.items()},
            "forwards": _mean(forwards),
            "positions": sum(a.positions for a in asked.values()),
            "seconds": sum(a.seconds for a in asked.values()),
            "n": len(scores),
        }
        slow = rows[0] if rows else row
        rows.append({**row, "cut": slow["forwards"] / row["forwards"], "lost": slow["accuracy"] - row["accuracy"]})
    return rows


def goals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A model that answers, and a schedule that saves forwards without costing answers."""
    right = rows[0]["accuracy"]
    text = "the masked-diffusion model answers at least this often, one token at a forward"
    out = [results.goal(text, right, RIGHT, right >= RIGHT)]
    equal = [r for r in rows[1:] if r["lost"] <= LOST]
    cut = max((r["cut"] for r in equal), default=1.0)
    text = "the best schedule that loses at most 0.01 of the answers cuts forwards at least this many times"
    return [*out, results.goal(text, cut, CUT, cut >= CUT)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
