"""Decoding to RGB, ours and others side by side: every frame of a ten-minute file, and 64 frames spread over it."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..video.backends import cores
from . import decoders
from .film_file import film_file
from .results import commit, goal, save

OURS, PLAIN = "foveate", "pyav, one thread"
DENSE = tuple(n for n in decoders.DECODERS if n == OURS or n.startswith("pyav"))
SPARSE = tuple(n for n in decoders.DECODERS if n != "pyav, one thread, converter kept")
OTHER = ("decord", "torchcodec")


def add(commands: Any) -> None:
    """The command ``decode_media`` of ``python -m foveate.bench``."""
    one = commands.add_parser("decode_media", help="decoding speed beside PyAV, decord and torchcodec")
    one.add_argument("--out", type=Path, default=Path("results/media_decode.json"))
    one.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "foveate-bench", help="for the file")
    one.add_argument("--seconds", type=int, default=600, help="of video, a multiple of 20")
    one.add_argument("--repeats", type=int, default=3)
    one.add_argument("--python", default=sys.executable, help="an interpreter that has decord and torchcodec")


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    commit()
    path = film_file(args.folder / f"film-{args.seconds}.mp4", args.seconds)
    took: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for turn in range(args.repeats):  # all of them in each turn, so that what else the machine does meets all
        for what, names in (("dense", DENSE), ("sparse", SPARSE)):
            for name in names:
                python = args.python if name.startswith(OTHER) else sys.executable
                told = alone(python, name, what, path)
                took.setdefault((what, name), []).append(told)
                print(f"  {turn} {what:6s} {name:37s} {told.get('error') or round(told['seconds'], 3)}", flush=True)
    rows = [_row(what, name, runs) for (what, name), runs in took.items()]
    about = {"seconds": args.seconds, "size": [854, 480], "rate": 30, "cores": cores(), "repeats": args.repeats}
    save(args.out, 0, rows, goals(rows), file=about, load=list(os.getloadavg()))
    print(f"wrote {args.out}")


def alone(python: str, name: str, what: str, path: Path) -> dict[str, Any]:
    """What one decoder took in a process of its own, or why it did not run."""
    done = subprocess.run(
        [python, str(Path(decoders.__file__)), name, what, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    return {"error": (done.stderr.strip().splitlines() or ["died"])[-1][:200]}


def _row(what: str, name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    good = [r for r in runs if "error" not in r]
    if not good:
        return {"frames_wanted": what, "decoder": name, "error": runs[0]["error"]}
    middle = {k: round(statistics.median(r[k] for r in good), 4) for k in ("seconds", "cpu_seconds", "peak_mb")}
    same = {k: good[0][k] for k in ("frames", "checksum")}
    return {"frames_wanted": what, "decoder": name, **middle, **same, "all_seconds": [r["seconds"] for r in good]}


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the rows are held to."""
    run = {(r["frames_wanted"], r["decoder"]): r for r in rows if "error" not in r}
    ours, plain = run["dense", OURS], run["dense", PLAIN]
    threads = min(
        r["seconds"] for (what, n), r in run.items() if what == "dense" and n.startswith("pyav") and "threads" in n
    )
    out = []
    for text, other, bar in (
        ("every frame: times as fast as PyAV on one thread", plain["seconds"], 1.9),
        ("every frame: times as fast as PyAV with its best threads", threads, 1.35),
    ):
        value = other / ours["seconds"]
        out.append(goal(text, value, bar, value >= bar))
    same = ours["checksum"] == plain["checksum"] and ours["frames"] == plain["frames"]
    out.append(goal("every frame: as many as PyAV's, and those looked at are bit-equal", float(same), 1.0, same))
    rivals = [r["seconds"] for (what, n), r in run.items() if what == "sparse" and n != OURS]
    value = min(rivals) / run["sparse", OURS]["seconds"]
    names = sorted({n.split(",")[0] for what, n in run if what == "sparse" and n != OURS})
    out.append(goal(f"64 frames: times as fast as the best of {', '.join(names)}", value, 1.0, value >= 1.0))
    peak = ours["peak_mb"]
    out.append(goal("every frame: peak memory of the process in MB", peak, 2000, peak <= 2000))
    return out
