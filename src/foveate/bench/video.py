"""The study of videos: how right the lab's video model stays under every method, on shorter and on longer clips."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import clips, held_to, own, study

FRAMES = (8, 32, 128)


def add(commands: Any) -> None:
    """The command ``video`` of ``python -m foveate.bench``."""
    one = study.add(commands, "video", "accuracy of every method on the lab's model, on clips", 270)
    one.add_argument("--frames", type=int, nargs="+", default=list(FRAMES), help="of a clip: a study for each")


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    frames = tuple(args.frames)
    run(args.out, args.model, args.items, args.seed, tuple(args.keeps), args.methods, args.workers, frames)
    study.drawn(args.out)


def run(
    out: Path,
    model: str,
    items: int,
    seed: int,
    keeps: tuple[float, ...],
    only: Sequence[str],
    workers: int,
    frames: tuple[int, ...] = FRAMES,
) -> None:
    """The whole study, written to ``out``; see :func:`foveate.bench.study.study`.

    Raises:
        InputError: no number of frames, or one below eight.
    """
    if not frames:
        raise InputError("'frames' must name at least one number of frames")
    topics = [clips.topic(n) for n in dict.fromkeys(frames)]
    study.study(out, model, topics, items, seed, keeps, only, workers, goals)


def goals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the clips of each length are held to."""
    out = []
    for n in dict.fromkeys(r["frames"] for r in rows):
        mine = [r for r in rows if r["frames"] == n]
        hard = ("needle", "the sign shown for a moment")
        out += held_to.goals(mine, clips.FAMILIES, hard, (0.1, "a tenth"), f" ({n} frames)")
        out += own.goals(mine, "dialogue_video", f" ({n} frames)")
    return out
