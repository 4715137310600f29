"""Two hours of frames through a stream: does memory stay flat, and can any earlier minute still be asked about?

Every minute is a clip of the lab in which a sign is shown for a moment. After the last minute the sign of each of some
minutes is asked for (``between`` names the minute). The same model is also asked with nothing but the minute's frames.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..lab.evaluate import wilson
from ..lab.tasks import Item, generate, score
from ..load import Loaded, load
from ..stream import Stream
from . import results
from .process import resident

TASK = "needle"
LONGEST = 8  # new tokens of an answer


def add(commands: Any) -> None:
    """The command ``streaming`` of ``python -m foveate.bench``."""
    one = commands.add_parser("streaming", help="hours of frames in constant memory, and what is still known of them")
    one.add_argument("--out", type=Path, default=Path("results/streaming.json"))
    one.add_argument("--model", default="lab/video")
    one.add_argument("--plan", default="foveal(keep=0.25)")
    one.add_argument("--minutes", type=int, default=120)
    one.add_argument("--fps", type=float, default=1.0, help="frames of each second")
    one.add_argument("--cap", type=int, default=16384, help="visual tokens that are remembered at most")
    one.add_argument("--questions", type=int, default=60, help="minutes that are asked about")
    one.add_argument("--seed", type=int, default=31)


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    done = run(args.model, args.plan, args.minutes, args.fps, args.cap, args.questions, args.seed)
    rows, told = done["rows"], {k: v for k, v in done.items() if k != "rows"}
    results.save(args.out, args.seed, rows, goals(rows, told), **told)
    draw(rows, told, args.out.with_suffix(".png"))
    print(f"wrote {args.out} and {args.out.with_suffix('.png')}")


def run(
    model: str | Loaded, plan: str, minutes: int, fps: float, cap: int, questions: int, seed: int
) -> dict[str, Any]:
    """Push ``minutes`` clips and ask: rows with what memory was after each, and which answers were right."""
    frames = round(60 * fps)
    loaded = model if isinstance(model, Loaded) else load(model)
    live = Stream(loaded, plan, cap=cap)
    rows: list[dict[str, Any]] = []
    asked = set(random.Random(seed).sample(range(minutes), min(questions, minutes)))
    alone: dict[int, tuple[Item, str]] = {}
    began = time.perf_counter()
    for minute in range(minutes):
        (item,) = generate(TASK, seed + minute, 1, frames=frames)  # one at a time: the bench too must not grow
        if minute in asked:
            only = Stream(loaded, "none", cap=10**9)
            only.push(list(item.media), [i / fps for i in range(frames)])
            alone[minute] = (_words(item), only.ask(item.question, max_new_tokens=LONGEST).text)
        live.push(list(item.media), [60.0 * minute + i / fps for i in range(frames)])
        gc.collect()
        rows.append({"minute": minute, "rss": resident(), "memory": live.nbytes, "tokens": live.tokens})
    pushed = time.perf_counter() - began
    for minute, (item, said) in alone.items():
        span = (60.0 * minute, 60.0 * (minute + 1))
        text = live.ask(item.question, between=span, max_new_tokens=LONGEST).text
        right = {"alone": score(said, item.answer, TASK), "stream": score(text, item.answer, TASK)}
        rows[minute] |= {"answer": item.answer, "said": text, **right}
    n = len(alone)
    hits = {k: sum(rows[m][k] for m in alone) for k in ("alone", "stream")}
    accuracy = {k: {"right": h, "of": n, "interval": wilson(h, n)} for k, h in hits.items()}
    about = {"model": loaded.name, "trained": loaded.trained, "plan": plan, "cap": cap, "fps": fps}
    return {**about, "seconds": pushed, "accuracy": accuracy, "rows": rows}


def _words(item: Item) -> Item:
    """The item without its frames."""
    return replace(item, media=(), messages=[], source=None)


def goals(rows: Sequence[dict[str, Any]], told: dict[str, Any]) -> list[dict[str, Any]]:
    """What the run is held to."""
    early = max(r["rss"] for r in rows[: max(1, len(rows) // 4)])
    late = max(r["rss"] for r in rows[len(rows) // 2 :])
    most = max(r["tokens"] for r in rows)
    out = [
        results.goal(
            "memory of the second half over that of the first quarter", late / early, 1.1, late <= 1.1 * early
        ),
        results.goal("visual tokens remembered at most", most, told["cap"], most <= told["cap"]),
    ]
    alone, stream = (told["accuracy"][k]["right"] for k in ("alone", "stream"))
    if told["trained"]:
        share = stream / alone if alone else 0.0
        out.append(
            results.goal("needles: the stream's accuracy over that of the minute alone", share, 0.8, share >= 0.8)
        )
    return out


def draw(rows: Sequence[dict[str, Any]], told: dict[str, Any], path: Path) -> None:
    """Memory over time, and which minutes were answered right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 4.5), height_ratios=(3, 1))
    at = [r["minute"] for r in rows]
    above.plot(at, [r["rss"] / 2**20 for r in rows], label="process")
    above.plot(at, [r["memory"] / 2**20 for r in rows], label=f"the stream's memory, at most {told['cap']:,} tokens")
    above.set_ylabel("MiB")
    above.set_ylim(0)
    above.legend(frameon=False)
    for y, name in ((1, "alone"), (0, "stream")):
        for right, mark in ((1.0, "o"), (0.0, "x")):
            where = [r["minute"] for r in rows if r.get(name) == right]
            below.scatter(where, [y] * len(where), marker=mark, s=14, color="tab:green" if right else "tab:red")
    below.set_yticks([0, 1], ["from memory", "minute alone"])
    below.set_ylim(-0.5, 1.5)
    below.set_xlabel("minute (circles: answered right after the last minute)")
    figure.suptitle(f"{len(rows)} minutes of frames, {told['plan']}, {told['model']}")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
