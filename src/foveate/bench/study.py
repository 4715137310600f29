"""How right a model of the lab stays under every method that drops visual tokens: paired items, intervals, costs.

Every plan is asked the same items as the full model. Results are kept one by one in ``.cache`` beside the results file,
under a key made of the items, the weights, the plan and the source it runs on, so a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from .. import spec
from ..errors import InputError
from ..lab.tasks.seeds import known
from ..load import load
from . import pareto
from .desk import FULL, Desk, marked
from .paired import difference, mean, named, rounded, share
from .results import commit, save
from .topic import Topic

KEEPS = (0.5, 0.25, 0.1, 0.05)
STAGES = ("encoder", "inputs", "layers")
#: Methods that select nothing by themselves, and why.
LEFT_OUT = {"given": "keeps what scores from elsewhere say; without any it would keep the first rows of the picture"}
MEDIA = "chooses what the model is shown, before there are tokens to be counted"

Goals = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]  # rows -> what they are held to
_Given = tuple[str, Sequence[Topic], int, int, Path, dict[str, str]]


def add(commands: Any, name: str, about: str, items: int) -> argparse.ArgumentParser:
    """A command of ``python -m foveate.bench`` with what all studies take."""
    one: argparse.ArgumentParser = commands.add_parser(name, help=about)
    one.add_argument("--out", type=Path, default=Path(f"results/{name}.json"))
    one.add_argument("--model", default=f"lab/{name}", help="what foveate.load takes")
    one.add_argument("--items", type=int, default=items)
    one.add_argument("--seed", type=int, default=0, help="of the items")
    one.add_argument("--keeps", type=float, nargs="+", default=list(KEEPS), help="shares of visual tokens")
    one.add_argument("--methods", nargs="+", default=[], help="names; default: all. 'random' is always among them")
    one.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    return one


def drawn(out: Path) -> None:
    """Draw the plots of a results file and say so."""
    for path in pareto.plots(out):
        print(f"wrote {path}")


def study(
    out: Path,
    model: str,
    topics: Sequence[Topic],
    items: int,
    seed: int,
    keeps: tuple[float, ...],
    only: Sequence[str],
    workers: int,
    goals: Goals,
) -> None:
    """The whole study, every method on every topic, written to ``out``.

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
        known("method", name, every)
    names = ["random", *(n for n in every if n != "random" and (not only or n in only))]
    folder = out.parent / ".cache"
    loaded, marks = load(model), marked()
    desks = [Desk(loaded, topic, seed, items, folder, marks) for topic in topics]
    found: list[dict[str, dict[str, Any]]] = [{} for _ in topics]
    for k, name, got in _run(desks, names, keeps, workers, (model, topics, seed, items, folder, marks)):
        found[k][name] = got
        told = got["why"] or f"{len(got['plans'])} plans, {got['seconds']:.1f} s"
        print(f"  {sum(map(len, found))}/{len(names) * len(topics)} {name}{topics[k].where}: {told}", flush=True)
    rows: list[dict[str, Any]] = []
    for desk, mine in zip(desks, found):
        desk.lines.read()
        rows += rows_of(desk, [(FULL, FULL, 1.0), *((n, p, k) for n in names for p, k in mine[n]["plans"].items())])
        desk.forget()
    more = {"model": model, "weights": desks[0].about[1], "items": items, "keeps": list(keeps)}
    more["left_out"] = _left_out(own) | _failed(topics, found)
    save(out, seed, rows, goals(rows), **more, seconds=round(time.perf_counter() - begun, 1))
    print(f"wrote {out}: {len(rows)} plans in {time.perf_counter() - begun:.0f} s")


def _left_out(own: Mapping[str, type[Any]]) -> dict[str, str]:
    """Methods that the study does not ask about, each with the reason."""
    return LEFT_OUT | {n: MEDIA for n, c in own.items() if c.stage == "media"}


def _failed(topics: Sequence[Topic], found: Sequence[Mapping[str, dict[str, Any]]]) -> dict[str, str]:
    """Methods that cannot run, and why; a name carries the topic where it runs on another."""
    out = {}
    for name in found[0]:
        whys = [mine[name]["why"] for mine in found]
        if all(whys):
            out[name] = whys[0]
        else:
            out |= {f"{name}{topic.where}": why for topic, why in zip(topics, whys) if why}
    return out


def _run(
    desks: Sequence[Desk], names: Sequence[str], keeps: tuple[float, ...], workers: int, given: _Given
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """What came of each method on each topic, by its number, as it comes."""
    if workers == 1:
        for k, desk in enumerate(desks):
            for name in names:
                yield k, name, desk.run(name, keeps)
            desk.sheet(FULL)
            desk.forget()
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(threads, *given)) as pool:
        whole = [pool.submit(_full, k) for k in range(len(desks))]
        asked = {pool.submit(_one, k, name, keeps): (k, name) for k in range(len(desks)) for name in names}
        for done in as_completed(asked):
            yield *asked[done], done.result()
        for one in whole:
            one.result()


_desks: list[Desk] = []  # of a worker process


def _start(
    threads: int, model: str, topics: Sequence[Topic], seed: int, items: int, folder: Path, marks: dict[str, str]
) -> None:
    torch.set_num_threads(threads)
    loaded = load(model)
    _desks[:] = [Desk(loaded, topic, seed, items, folder, marks) for topic in topics]


def _at(k: int) -> Desk:
    """The desk of a topic; what others hold is given up."""
    for desk in _desks:
        if desk is not _desks[k]:
            desk.forget()
    return _desks[k]


def _one(k: int, name: str, keeps: tuple[float, ...]) -> dict[str, Any]:
    return _at(k).run(name, keeps)


def _full(k: int) -> None:
    _at(k).sheet(FULL)


# --- what is written down ---------------------------------------------------------------------------------------------


def rows_of(desk: Desk, plans: Sequence[tuple[str, str, float | None]]) -> list[dict[str, Any]]:
    """One row for each (method, plan, share wanted) on one topic, the full model first; see :func:`_cell`."""
    tasks, items = [t for t, _ in desk.items], [i for _, i in desk.items]
    groups = groups_of(tasks, desk.topic.families)
    right = {p: scores(desk.sheet(p)["said"], items) for _, p, _ in plans}
    full = desk.sheet(FULL)["said"]
    chance = {keep: right[p] for n, p, keep in plans if n == "random"}
    out = []
    for name, plan, keep in plans:
        loyal = scores(desk.sheet(plan)["said"], items, full)
        kept, cost = desk.sheet(plan)["kept"], desk.cost(plan)
        row = {"method": name, "stage": "" if name == FULL else spec.get(name).stage, "plan": plan, "keep": keep}
        row |= desk.topic.about
        row |= rounded({"kept": mean(kept), "tokens": desk.visual * mean(kept)})
        row |= {k: round(v, 3) for k, v in cost.items()}
        seen = desk.sheet(plan)["evidence"]
        against = None if name == FULL else right[FULL], None if name in (FULL, "random") else chance.get(keep)
        row["tasks"] = {task: _cell(at, right[plan], *against, loyal, seen) for task, at in groups.items()}
        out.append(row)
    return out


def groups_of(tasks: Sequence[str], families: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """Numbers of the items of each task, of each family of several tasks, and of all."""
    names = dict.fromkeys(tasks)
    out = {name: [i for i, t in enumerate(tasks) if t == name] for name in names}
    for family, members in families.items():
        if len(members) > 1:
            out[family] = [i for i, t in enumerate(tasks) if t in members]
    return out | {"overall": list(range(len(tasks)))}


def scores(said: Sequence[str], items: Iterable[Any], wanted: Sequence[str] | None = None) -> list[float]:
    """How right each answer is, 0 to 1; against ``wanted`` instead of the right answers where given."""
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
