"""The study of the cache: answers, text, needles, speed and bytes under every policy and store.

Parts can be run one by one; a results file keeps the rows of the parts that were not run. Every figure is kept in
``.cache`` beside the results, so a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..lab.tasks.seeds import known
from .kv import held, lab, ladder, needle, plots, speed, text, verdicts
from .results import commit, save

PARTS = ("bytes", "lab", "needle", "speed", "text")
_Found = tuple[list[dict[str, Any]], dict[str, str]]


def add(commands: Any) -> None:
    """The command ``cache`` of ``python -m foveate.bench``."""
    one = commands.add_parser("cache", help="what cache policies and stores leave of answers, bytes and time")
    one.add_argument("--out", type=Path, default=Path("results/cache.json"))
    one.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    one.add_argument("--methods", nargs="+", default=[], help="names; default: all")
    one.add_argument("--keeps", type=float, nargs="+", default=list(ladder.KEEPS), help="shares of entries")
    one.add_argument("--models", nargs="+", default=[s.model for s in lab.SUBJECTS], help="of the lab")
    one.add_argument("--seed", type=int, default=0, help="of the lab's items")
    one.add_argument("--scale", type=float, default=1.0, help="so many times the items of every task of the lab")
    one.add_argument("--weights", help="folder of a small language model, for the part text")
    one.add_argument("--text", help="a text file in English, for the part text")
    one.add_argument("--passages", type=int, default=24, help="of that text")
    one.add_argument("--needles", type=int, default=8, help="for each length and depth")
    one.add_argument("--lengths", type=int, nargs="+", default=list(speed.LENGTHS), help="of the context, for speed")
    one.add_argument("--repeats", type=int, default=5, help="pairs of steps, for speed")
    one.add_argument("--small", action="store_true", help="tiny shapes and lengths: a dry run")


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    run(args)
    for path in plots.plots(args.out):
        print(f"wrote {path}")


def run(args: argparse.Namespace) -> None:
    """The parts asked for, written to ``args.out`` as each is done.

    Raises:
        InputError: a share outside (0, 1], an unknown method or model.
    """
    commit()  # what is measured is what was checked out now
    if bad := [k for k in args.keeps if not 0 < k <= 1]:
        raise InputError(f"'keeps' must be in (0, 1]. Got {bad[0]}.")
    for name in args.methods:
        known("method", name, ladder.own())
    subjects = {s.model: s for s in lab.SUBJECTS}
    for name in args.models:
        known("model", name, subjects)
    keeps, only, folder = tuple(args.keeps), tuple(args.methods), args.out.parent / ".cache"

    def asked() -> _Found:
        rows, left = list[dict[str, Any]](), dict[str, str]()
        for name in args.models:
            more, why = lab.rows(subjects[name], args.seed, args.scale, keeps, only, folder)
            rows, left = rows + more, left | {f"{plan} ({name})": w for plan, w in why.items()}
        return rows, left

    def read() -> _Found:
        model, file, missing = text.places(args.weights, args.text)
        if model is None or file is None or missing:
            print(f"  left out: {missing}")
            return [], {"all plans": missing}
        return text.rows(model, file, args.passages, keeps, only, folder)

    lengths = (64, 128) if args.small else needle.LENGTHS
    tokens, long = (256, 512) if args.small else (held.TOKENS, held.LONG)
    of: dict[str, Callable[[], _Found]] = {
        "bytes": lambda: held.rows(tokens, long, only, folder),
        "lab": asked,
        "needle": lambda: needle.rows(args.needles, lengths, only, folder),
        "speed": lambda: speed.rows(tuple(args.lengths), args.repeats, only, folder, args.small),
        "text": read,
    }
    for part in args.parts:
        print(f"{part}:", flush=True)
        begun = time.perf_counter()
        rows, left = of[part]()
        told = {"commit": commit(), "seconds": round(time.perf_counter() - begun, 1), "left_out": left}
        _write(args, part, rows, told)


def _write(args: argparse.Namespace, part: str, rows: list[dict[str, Any]], told: dict[str, Any]) -> None:
    """Put a part's rows in place of the earlier ones of that part."""
    before = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {"rows": [], "parts": {}}
    every = [r for r in before["rows"] if r["part"] != part] + rows
    every.sort(key=lambda r: PARTS.index(r["part"]))
    parts = {**before["parts"], part: told}
    save(args.out, args.seed, every, verdicts.goals(every), parts={p: parts[p] for p in PARTS if p in parts})
    print(f"wrote {args.out}: {len(rows)} rows of {part} in {told['seconds']:.0f} s", flush=True)
