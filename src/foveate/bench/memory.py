"""An hour of video in two gigabytes, and the second question for next to nothing.

The hour is made of the lab's clips, drawn at 480 lines and kept as H.264. Each figure is taken in a process of its own,
whose peak is what the kernel says at its end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..lab.tasks import generate
from ..video import write_video
from . import results
from .process import peak

SIZE = (640, 480)
ASKED = ("What word is shown?", "Which shape moves?", "How many flashes are there?")
GIB = 2**30
LEAST = 8  # frames of the lab's clips


def add(commands: Any) -> None:
    """The command ``memory`` of ``python -m foveate.bench``."""
    one = commands.add_parser("memory", help="an hour of video: memory of a question, time of the second one")
    one.add_argument("--out", type=Path, default=Path("results/memory.json"))
    one.add_argument("--model", default="tiny")
    one.add_argument("--plan", default="foveal(keep=0.1)")
    one.add_argument("--minutes", type=int, default=60)
    one.add_argument("--fps", type=int, default=10, help="of the file")
    one.add_argument("--seen", type=float, default=1.0, help="frames seen of each second, when indexing")
    one.add_argument("--frames", type=int, default=256, help="sampled by a question without a store")
    one.add_argument("--folder", type=Path, default=None, help="where the file is made, and kept for the next run")
    one.add_argument("--seed", type=int, default=41)
    one.add_argument("--child", nargs="*", default=None, help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> None:
    """Run the command, or one measurement of it."""
    if args.child is not None:
        print(json.dumps(measured(*args.child)))
        return
    home = args.folder or Path(tempfile.mkdtemp(prefix="foveate-"))
    try:
        done = run(args, home)
    finally:
        if args.folder is None:
            shutil.rmtree(home, ignore_errors=True)
    results.save(args.out, args.seed, done, goals(done), model=args.model, plan=args.plan, minutes=args.minutes)
    print(f"wrote {args.out}")


def run(args: argparse.Namespace, home: Path) -> list[dict[str, Any]]:
    """Make the file and take all figures."""
    film = home / f"lab-{args.minutes}min-{args.fps}fps-{args.seed}.mp4"
    if not film.is_file():
        home.mkdir(parents=True, exist_ok=True)
        part = film.with_suffix(".part.mp4")
        write_video(part, pictures(args.minutes, args.fps, args.seed), fps=args.fps, crf=23)
        part.replace(film)
    store = home / "store"
    shutil.rmtree(store, ignore_errors=True)
    return [
        _child("ask", film, args.model, args.plan, args.frames),
        _child("index", film, args.model, args.plan, args.seen, store),
        _child("again", args.model, store),
    ]


def pictures(minutes: int, fps: int, seed: int) -> Iterator[Image.Image]:
    """Frames of the whole file: clips of six seconds, one after the other, each frame of them shown ten times a second
    at most."""
    shown = min(fps, 4)  # frames drawn of each second; the others repeat them
    for clip in range(minutes * 10):
        (item,) = generate(
            ("needle", "direction", "flashes", "state")[clip % 4], seed + clip, 1, frames=max(LEAST, 6 * shown)
        )
        for i in range(6 * fps):
            yield item.media[i * shown // fps].resize(SIZE, Image.Resampling.NEAREST)


def _child(*what: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "foveate.bench", "memory", "--child", *map(str, what)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(out.stdout.strip().splitlines()[-1])
    return told


def measured(what: str, *given: str) -> dict[str, Any]:
    """One measurement, in this process. seconds: of each question, loading the model not included."""
    from ..load import load

    if what == "ask":
        film, model, plan, frames = given
        loaded = load(model)
        row = _asked(film, loaded, plan, int(frames))
    elif what == "index":
        film, model, plan, seen, store = given
        row = _indexed(film, load(model), plan, float(seen), store)
    else:
        model, store = given
        row = {"seconds": _questions(store, load(model))}
    return {"what": what, "peak": peak(), **row}


def _asked(film: str, loaded: Any, plan: str, frames: int) -> dict[str, Any]:
    from ..ask import ask

    began = time.perf_counter()
    said = ask(film, ASKED[0], model=loaded, plan=plan, frames=frames)
    return {"seconds": [time.perf_counter() - began], "tokens": said.prompt_tokens, "frames": frames}


def _indexed(film: str, loaded: Any, plan: str, seen: float, store: str) -> dict[str, Any]:
    from ..archive import index

    began = time.perf_counter()
    (done,) = index([film], store, model=loaded, plan=plan, fps=seen)
    indexing = time.perf_counter() - began
    seconds = _questions(store, loaded)
    size = sum(f.stat().st_size for f in Path(store).rglob("*") if f.is_file())
    first = indexing + seconds[0]
    about = {"state": done.state, "clips": done.clips, "tokens": done.tokens, "bytes": size}
    return {"indexing": indexing, "seconds": [first, *seconds[1:]], **about}


def _questions(store: str, loaded: Any) -> list[float]:
    from ..archive import Archive, ask_store

    out = []
    for question in ASKED:
        began = time.perf_counter()
        ask_store(Archive(store), question, model=loaded, max_new_tokens=16)
        out.append(time.perf_counter() - began)
    return out


def goals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the figures are held to."""
    by = {r["what"]: r for r in rows}
    out = []
    for what, text in (("ask", "a question"), ("index", "indexing and questions"), ("again", "questions to the store")):
        most = by[what]["peak"] / GIB
        out.append(results.goal(f"GiB at the peak: {text}, an hour of 480 lines", most, 2.0, most < 2.0))
    first, second, *_ = by["index"]["seconds"]
    share = second / first
    out.append(results.goal("time of the second question over that of the first", share, 0.1, share < 0.1))
    return out
