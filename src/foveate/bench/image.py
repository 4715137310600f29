"""The study of images: how right the lab's image model stays under every method; see :mod:`foveate.bench.study`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import exam, held_to, own, study
from .topic import Topic

TOPIC = Topic("image", exam.FAMILIES, exam.items_of, exam.name)


def goals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the study is held to, and foveate's own method in it."""
    return [
        *held_to.goals(rows, exam.FAMILIES, hard=("read", "reading"), best_at=(0.25, "a quarter")),
        *own.goals(rows, "dialogue"),
    ]


def add(commands: Any) -> None:
    """The command ``image`` of ``python -m foveate.bench``."""
    study.add(commands, "image", "accuracy of every image method on the lab's model", 500)


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    run(args.out, args.model, args.items, args.seed, tuple(args.keeps), args.methods, args.workers)
    study.drawn(args.out)


def run(
    out: Path, model: str, items: int, seed: int, keeps: tuple[float, ...], only: Sequence[str], workers: int
) -> None:
    """The whole study, written to ``out``; see :func:`foveate.bench.study.study`."""
    study.study(out, model, [TOPIC], items, seed, keeps, only, workers, goals)
