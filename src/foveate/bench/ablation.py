"""What each idea of foveal brings: the method whole, and with one idea at a time changed or switched off, paired."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..load import load
from . import exam, study
from .desk import FULL, Desk, marked
from .paired import difference
from .results import commit, goal, save
from .topic import Topic

#: What is changed -> the options that change it.
CHANGES: dict[str, str] = {
    "as it is": "",
    "every token needs the same": "salient=0",
    "no question": "query=0",
    "more of the question": "query=0.5",
    "no folding": "fold=0",
    "looser likeness": "sharp=1",
    "more for fine detail": "fine=0.3",
    "stops at 98% of the need": "enough=0.98",
}


def add(commands: Any) -> None:
    """The command ``foveal`` of ``python -m foveate.bench``."""
    one = commands.add_parser("foveal", help="what each idea of foveal brings, on the lab's image model")
    one.add_argument("--out", type=Path, default=Path("results/foveal.json"))
    one.add_argument("--model", default="lab/image", help="what foveate.load takes")
    one.add_argument("--items", type=int, default=480)
    one.add_argument("--seed", type=int, default=6, help="of the items; none of those it was tuned on (11 and 21)")
    one.add_argument("--keeps", type=float, nargs="+", default=list(study.KEEPS), help="shares of visual tokens")


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    run(args.out, args.model, args.items, args.seed, tuple(args.keeps))


def run(out: Path, model: str, items: int, seed: int, keeps: tuple[float, ...]) -> None:
    """The whole ablation, written to ``out``. Raises InputError: fewer items than tasks."""
    begun = time.perf_counter()
    commit()  # what is measured is what was checked out now
    topic = Topic("image", exam.FAMILIES, exam.items_of, exam.name)
    desk = Desk(load(model), topic, seed, items, out.parent / ".cache", marked())
    plans: list[tuple[str, str, float | None]] = [(FULL, FULL, 1.0)]
    for keep in keeps:
        plans += [("foveal", _plan(keep, more), keep) for more in CHANGES.values()]
        plans.append(("random", f"random(keep={keep})", keep))
    for _, plan, _ in plans:
        desk.sheet(plan)
        print(f"  {plan}", flush=True)
    rows = study.rows_of(desk, plans)
    _compared(desk, rows, keeps)
    save(out, seed, rows, goals(rows), model=model, weights=desk.about[1], items=items, keeps=list(keeps))
    print(f"wrote {out}: {len(rows)} plans in {time.perf_counter() - begun:.0f} s")


def _plan(keep: float, more: str) -> str:
    return f"foveal(keep={keep}{', ' + more if more else ''})"


def _compared(desk: Desk, rows: Sequence[dict[str, Any]], keeps: Sequence[float]) -> None:
    """Add to each changed plan what was changed, and the paired difference from the method as it is."""
    items = [i for _, i in desk.items]

    def right(plan: str) -> list[float]:
        return study.scores(desk.sheet(plan)["said"], items)

    at = {row["plan"]: row for row in rows}
    for keep in keeps:
        whole = right(_plan(keep, ""))
        for change, more in CHANGES.items():
            row = at[_plan(keep, more)]
            row["change"] = change
            if more:
                row["against_whole"] = difference(right(row["plan"]), whole)


def goals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each idea that is on by default brings something, on average over the shares kept."""
    out = []
    for change in ("every token needs the same", "no question", "no folding", "looser likeness"):
        lost = [-r["against_whole"][0] for r in rows if r.get("change") == change]
        value = sum(lost) / len(lost) if lost else 0.0
        out.append(goal(f"foveal is better as it is than with: {change}", value, 0.0, value >= 0))
    return out
