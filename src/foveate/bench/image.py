"""How right the lab's image model stays under every method that drops visual tokens: paired items, intervals, costs.

Every plan is asked the same items as the full model. Results are kept one by one in ``.cache`` beside the results file,
under a key made of the items, the weights, the plan and the source it runs on, so a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from .. import spec
from ..errors import InputError
from ..lab.tasks.seeds import known
from ..load import load
from . import pareto
from .desk import FULL, Desk
from .exam import FAMILIES
from .paired import difference, mean, named, rounded, share
from .results import commit, goal, save

KEEPS = (0.5, 0.25, 0.1, 0.05)
STAGES = ("encoder", "inputs", "layers")
#: Methods that select nothing by themselves, and why.
LEFT_OUT = {"given": "keeps what scores from elsewhere say; without any it would keep the first rows of the picture"}
SOLVED = 0.5  # a task counts in goals and verdicts if the full model is right at least this often
_desk: Desk | None = None  # of a worker process


def add(commands: Any) -> None:
    """The command ``image`` of ``python -m foveate.bench``."""
    one = commands.add_parser("image", help="accuracy of every image method on the lab's model")
    one.add_argument("--out", type=Path, default=Path("results/image.json"))
    one.add_argument("--model", default="lab/image", help="what foveate.load takes")
    one.add_argument("--items", type=int, default=500)
    one.add_argument("--seed", type=int, default=0, help="of the items")
    one.add_argument("--keeps", type=float, nargs="+", default=list(KEEPS), help="shares of visual tokens")
    one.add_argument("--methods", nargs="+", default=[], help="names; default: all. 'random' is always among them")
    one.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    study(args.out, args.model, args.items, args.seed, tuple(args.keeps), args.methods, args.workers)
    for path in pareto.plots(args.out):
        print(f"wrote {path}")


def study(
    out: Path, model: str, items: int, seed: int, keeps: tuple[float, ...], only: Sequence[str], workers: int
) -> None:
    """The whole study, written to ``out``.

    Raises:
        InputError: a share outside (0, 1], an unknown method, or fewer items than tasks.
    """
    begun = time.perf_counter()
    commit()  # what is measured is what was checked out now
    if bad := [k for k in keeps if not 0 < k <= 1]:
        raise InputError(f"'keeps' must be in (0, 1]. Got {bad[0]}.")
    if not keeps or workers < 1:
        raise InputError(f"'keeps' must name a share, and 'workers' be at least 1. Got {keeps} and {workers}.")
    own = {n: c for n, c in spec.methods().items() if c.__module__.startswith("foveate.")}
    every = [n for n, c in own.items() if c.stage in STAGES and n not in LEFT_OUT]
    for name in only:
        known("image method", name, every)
    names = ["random", *(n for n in every if n != "random" and (not only or n in only))]
    folder = out.parent / ".cache"
    desk = Desk(load(model), seed, items, folder)
    found: dict[str, dict[str, Any]] = {}
    for done in _run(desk, names, keeps, workers, (model, seed, items, folder, desk.marks)):
        found |= done
        ((name, got),) = done.items()
        told = got["why"] or f"{len(got['plans'])} plans, {got['seconds']:.1f} s"
        print(f"  {len(found)}/{len(names)} {name}: {told}", flush=True)
    desk.lines.read()
    plans = [(FULL, FULL, 1.0), *((n, p, k) for n in names for p, k in found[n]["plans"].items())]
    rows = rows_of(desk, plans)
    out_of = LEFT_OUT | {n: g["why"] for n, g in found.items() if g["why"]}
    more = {"model": model, "weights": desk.about[1], "items": items, "keeps": list(keeps), "left_out": out_of}
    save(out, seed, rows, goals(rows), **more, seconds=round(time.perf_counter() - begun, 1))
    print(f"wrote {out}: {len(rows)} plans in {time.perf_counter() - begun:.0f} s")


def _run(
    desk: Desk, names: list[str], keeps: tuple[float, ...], workers: int, given: tuple[Any, ...]
) -> Iterator[dict[str, Any]]:
    """What came of each method, as it comes."""
    if workers == 1:
        for name in names:
            yield {name: desk.run(name, keeps)}
        desk.sheet(FULL)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(threads, *given)) as pool:
        whole = pool.submit(_full)
        asked = {pool.submit(_one, name, keeps): name for name in names}
        for done in as_completed(asked):
            yield {asked[done]: done.result()}
        whole.result()


def _start(threads: int, model: str, seed: int, items: int, folder: Path, marks: dict[str, str]) -> None:
    global _desk
    torch.set_num_threads(threads)
    _desk = Desk(load(model), seed, items, folder, marks)


def _one(name: str, keeps: tuple[float, ...]) -> dict[str, Any]:
    assert _desk is not None
    return _desk.run(name, keeps)


def _full() -> None:
    assert _desk is not None
    _desk.sheet(FULL)


# --- what is written down ---------------------------------------------------------------------------------------------


def rows_of(desk: Desk, plans: Sequence[tuple[str, str, float | None]]) -> list[dict[str, Any]]:
    """One row for each (method, plan, share wanted), the full model first; see :func:`_row`."""
    tasks, items = [t for t, _ in desk.items], [i for _, i in desk.items]
    groups = groups_of(tasks)
    right = {p: _scores(desk.sheet(p)["said"], items) for _, p, _ in plans}
    full = desk.sheet(FULL)["said"]
    chance = {keep: right[p] for n, p, keep in plans if n == "random"}
    out = []
    for name, plan, keep in plans:
        loyal = _scores(desk.sheet(plan)["said"], items, full)
        kept, cost = desk.sheet(plan)["kept"], desk.cost(plan)
        row = {"method": name, "stage": "" if name == FULL else spec.get(name).stage, "plan": plan, "keep": keep}
        row |= rounded({"kept": mean(kept), "tokens": desk.visual * mean(kept)})
        row |= {k: round(v, 3) for k, v in cost.items()}
        seen = desk.sheet(plan)["evidence"]
        against = None if name == FULL else right[FULL], None if name in (FULL, "random") else chance.get(keep)
        row["tasks"] = {task: _cell(at, right[plan], *against, loyal, seen) for task, at in groups.items()}
        out.append(row)
    return out


def groups_of(tasks: Sequence[str]) -> dict[str, list[int]]:
    """Numbers of the items of each task, of each family of several tasks, and of all."""
    names = dict.fromkeys(tasks)
    out = {name: [i for i, t in enumerate(tasks) if t == name] for name in names}
    for family, members in FAMILIES.items():
        if len(members) > 1:
            out[family] = [i for i, t in enumerate(tasks) if t in members]
    return out | {"overall": list(range(len(tasks)))}


def _scores(said: Sequence[str], items: Iterable[Any], wanted: Sequence[str] | None = None) -> list[float]:
    from ..lab.tasks import score

    right = [i.answer for i in items] if wanted is None else wanted
    return [score(s, w, i.turns[-1].task) for s, w, i in zip(said, right, items)]


def _cell(
    at: list[int],
    right: Sequence[float],
    full: Sequence[float] | None,
    chance: Sequence[float] | None,
    loyal: Sequence[float],
    seen: Sequence[float | None],
) -> dict[str, Any]:
    """One task under one plan.

    accuracy with its interval (low, high); loss against the full model and gain over random selection of as many
    tokens, paired, each with its interval; loyalty: how often it says what the full model says (for descriptions, by
    F1); evidence: the share of the tokens showing the answer that are left.
    """
    mine = [right[i] for i in at]
    cell: dict[str, Any] = {"n": len(at), **share(mine)}
    if full is not None:
        cell |= named("loss", difference([full[i] for i in at], mine))
    if chance is not None:
        cell |= named("gain", difference(mine, [chance[i] for i in at]))
    shown = [e for i in at if (e := seen[i]) is not None]
    return cell | rounded({"loyalty": mean([loyal[i] for i in at]), "evidence": mean(shown)})


def goals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the study is held to: above all, that it can tell good selections from bad ones."""
    whole = next(r for r in rows if r["method"] == FULL)["tasks"]
    base = whole["overall"]["accuracy"]
    out = [goal("the full model is right at least this often, over all tasks", base, 0.8, base >= 0.8)]
    known_tasks = [t for t in dict.fromkeys(t for m in FAMILIES.values() for t in m) if whole[t]["accuracy"] >= SOLVED]
    chance = next((r["tasks"] for r in rows if r["method"] == "random" and r["keep"] == 0.1), None)
    if chance is not None:
        lost = chance["overall"]["loss"]
        out.append(goal("random selection of a tenth of the tokens loses at least this much", lost, 0.15, lost >= 0.15))
        least = min((chance[t]["loss"] for t in known_tasks), default=1.0)
        text = "some task that the model solves loses less than this by random selection of a tenth"
        out.append(goal(text, least, 0.05, least < 0.05))
        lost = chance["read"]["loss"]
        out.append(goal("reading loses more than this by random selection of a tenth", lost, 0.3, lost > 0.3))
    at = [r["tasks"]["overall"] for r in rows if r["keep"] == 0.25 and r["method"] != "random"]
    if at:
        gain = max(c.get("gain", 0.0) for c in at)
        text = "the best method gains at least this much over random selection at a quarter of the tokens"
        out.append(goal(text, gain, 0.05, gain >= 0.05))
    return out
