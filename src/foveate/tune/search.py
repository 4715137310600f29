"""Successive halving over plans on growing sets of items, and evolution of those that are left.

Halving after Jamieson and Talwalkar (arXiv 1502.07943); offspring by level switches, judged on few items first and on
more when few are left, after EvoPress (arXiv 2410.14649). Both objectives count throughout: accuracy and cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from ..bench.paired import mean

ETA = 2.0  # of so many plans one goes on, each time the number of items grows


@dataclass(frozen=True)
class Trial:
    """A plan that was asked: what it costs, lower is better, and the score of each item so far."""

    plan: str
    cost: float
    scores: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        return mean(self.scores)


Ask = Callable[[str, int], Trial | None]  # a plan, a number of items -> what came of it; None where it cannot run
Refuted = Callable[[Trial], bool]


def halve(plans: Iterable[str], sizes: Sequence[int], ask: Ask, refuted: Refuted, least: int) -> list[Trial]:
    """Ask all plans a few items, the better part of them more, and so on.

    Args:
        plans: as text. sizes: numbers of items, ascending. ask: see :data:`Ask`.
        refuted: whether a trial cannot be what is wanted any more; such plans go first.
        least: plans that go on at any rate.

    Returns:
        What was asked all items, best first.
    """
    left = list(dict.fromkeys(plans))
    trials: list[Trial] = []
    for k, size in enumerate(sizes):
        trials = [t for p in left if (t := ask(p, size)) is not None]
        if k + 1 < len(sizes):
            trials = select(trials, max(least, round(len(trials) / ETA)), refuted)
            left = [t.plan for t in trials]
    return select(trials, len(trials), refuted)


def evolve(
    parents: Sequence[Trial],
    generations: int,
    children: int,
    mutate: Callable[[str, Sequence[str], Random], str | None],
    sizes: Sequence[int],
    ask: Ask,
    refuted: Refuted,
    least: int,
    seed: int,
) -> list[Trial]:
    """Change the best plans a little, again and again, and keep what is better.

    Args:
        generations, children: how often, and how many changed plans each time.
        mutate: (plan, the other parents, chance) -> another plan, or None. seed: of all chance.

    Returns:
        The last parents, best first.
    """
    chance, seen = Random(seed), {t.plan for t in parents}
    best = list(parents)
    for _ in range(generations):
        if not best:
            break
        made: list[str] = []
        for _ in range(8 * children):  # most changes of a short plan have been seen before
            parent = best[
                min(chance.randrange(len(best)), chance.randrange(len(best)))
            ].plan  # the better, the likelier
            child = mutate(parent, [t.plan for t in best], chance)
            if child is not None and child not in seen:
                seen.add(child)
                made.append(child)
            if len(made) == children:
                break
        grown = halve(made, sizes, ask, refuted, max(1, least // 2))
        best = select([*best, *grown], max(least, len(parents)), refuted)
    return best


def select(trials: Sequence[Trial], k: int, refuted: Refuted) -> list[Trial]:
    """The ``k`` best: not refuted, on the front of accuracy and cost, and apart from each other; ties by position."""
    rank, gap = fronts(trials), list[float]()
    for i, t in enumerate(trials):
        peers = [o for o, r in zip(trials, rank) if r == rank[i]]
        gap.append(_apart(t, peers))
    order = sorted(range(len(trials)), key=lambda i: (refuted(trials[i]), rank[i], -gap[i], i))
    return [trials[i] for i in order[:k]]


def fronts(trials: Sequence[Trial]) -> list[int]:
    """Of each trial, 0 on the Pareto front, 1 on that of the rest, and so on. Of equals the first is ahead."""
    rank = [-1] * len(trials)
    level = 0
    while -1 in rank:
        open_ = [i for i, r in enumerate(rank) if r == -1]
        for i in [i for i in open_ if not any(_beats(trials, j, i) for j in open_)]:
            rank[i] = level
        level += 1
    return rank


def front(trials: Sequence[Trial]) -> list[Trial]:
    """The Pareto front, cheapest first."""
    return sorted((t for t, r in zip(trials, fronts(trials)) if r == 0), key=lambda t: (t.cost, t.plan))


def _beats(trials: Sequence[Trial], j: int, i: int) -> bool:
    a, b = trials[j], trials[i]
    if i == j or a.accuracy < b.accuracy or a.cost > b.cost:
        return False
    return a.accuracy > b.accuracy or a.cost < b.cost or j < i


def _apart(t: Trial, peers: Sequence[Trial]) -> float:
    """How much room a trial has among its peers along the costs; the ends have all."""
    below = [p.cost for p in peers if p.cost < t.cost]
    above = [p.cost for p in peers if p.cost > t.cost]
    if not below or not above:
        return float("inf")
    return (min(above) - max(below)) / max(abs(t.cost), 1e-30)
