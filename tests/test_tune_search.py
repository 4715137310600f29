"""Targets, claims, halving and evolution, without a model."""

from __future__ import annotations

import math
from random import Random

import pytest

from foveate.errors import InputError
from foveate.lab.evaluate import wilson
from foveate.spec import Plan
from foveate.tune import claim
from foveate.tune.mutate import CHANGES, mutate
from foveate.tune.search import Trial, evolve, front, fronts, halve, select
from foveate.tune.target import Target


@pytest.mark.parametrize(
    ("text", "metric", "bound", "relative"),
    [
        ("accuracy>=0.98*full", "accuracy", 0.98, True),
        ("accuracy >= full", "accuracy", 1.0, True),
        ("accuracy>=90%", "accuracy", 0.9, False),
        ("ttft<=0.5 * full", "ttft", 0.5, True),
        ("ttft<=120ms", "ttft", 0.12, False),
        ("memory<=2GB", "memory", 2e9, False),
        ("kv<=1.5MiB", "kv", 1.5 * 2**20, False),
        ("flops<=.5*full", "flops", 0.5, True),
    ],
)
def test_targets_are_read(text: str, metric: str, bound: float, relative: bool) -> None:
    t = Target.parse(text)
    assert (t.metric, t.bound, t.relative) == (metric, pytest.approx(bound), relative)
    assert str(t) == "".join(text.split())
    assert Target.parse(str(t)) == t


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("accuracy", "cannot read the target 'accuracy'"),
        ("speed>=2", "no target is called 'speed'; there are accuracy"),
        ("accuracy<=0.5", "accuracy is bounded by >="),
        ("memory<=2", "B or KB"),
        ("ttft<=2GB", "s or ms"),
        ("accuracy>=1.5", "at most 1"),
        ("ttft<=0*full", "must be positive"),
    ],
)
def test_other_targets_are_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        Target.parse(text)


# --- claims -----------------------------------------------------------------------------------------------------------


def test_few_items_support_nothing_and_say_how_many_would() -> None:
    target = Target.parse("accuracy>=0.9*full")
    full = [1.0, 1.0, 1.0, 1.0, 0.0] * 4
    found = claim.accuracy(target, full, full)
    assert not found.supported
    assert found.value == pytest.approx(0.08)
    assert found.needed is not None
    enough = -(-found.needed // 5)
    assert claim.accuracy(target, full[:5] * enough, full[:5] * enough).supported
    fewer = found.needed // 5 - 1
    assert not claim.accuracy(target, full[:5] * fewer, full[:5] * fewer).supported
    assert f"about {found.needed:,} like these would support it" in str(found)
    assert "NOT supported" in str(found)


def test_what_is_worse_is_supported_by_no_number_of_items() -> None:
    found = claim.accuracy(Target.parse("accuracy>=0.98*full"), [0.0, 1.0] * 10, [1.0] * 20)
    assert not found.supported
    assert found.needed is None
    same = claim.accuracy(Target.parse("accuracy>=full"), [1.0] * 500, [1.0] * 500)
    assert not same.supported, "never as good as, to the last digit"


def test_an_absolute_accuracy_is_judged_by_wilson() -> None:
    target = Target.parse("accuracy>=0.9")
    few, many = (claim.accuracy(target, [1.0] * n, [0.0] * n) for n in (30, 40))
    assert (few.supported, many.supported) == (False, True)
    assert many.low == wilson(40, 40)[0]
    assert few.needed == 35
    assert wilson(34, 34)[0] < 0.9 <= wilson(35, 35)[0]


def test_medians_are_bounded_without_assuming_a_shape() -> None:
    assert claim.middle([3.0, 1.0, 2.0, 5.0, 4.0]) == (3, 0, math.inf)
    assert claim.middle([1.0, 2, 3, 4, 5, 6]) == (3.5, 1, 6)
    assert claim.middle([float(i) for i in range(1, 13)])[1:] == (3, 10)  # 1 - 2 * P(at most 2 of 12) = 0.961
    target = Target.parse("ttft<=0.5*full")
    fast = claim.times(target, [1.0] * 6, [4.0] * 6)
    assert fast.supported
    assert not claim.times(target, [1.0] * 5, [4.0] * 5).supported
    assert claim.times(target, [1.0] * 5, [4.0] * 5).needed == 6
    assert claim.times(target, [3.0] * 6, [4.0] * 6).needed is None
    assert not claim.times(target, [1.0] * 5 + [3.9], [4.0] * 6).supported, "one slow prompt of six is too many"
    assert claim.times(target, [1.0] * 5, [4.0] * 5).as_dict()["high"] is None, "JSON and YAML have no infinity"


def test_counts_have_no_interval() -> None:
    found = claim.counted(Target.parse("kv<=0.3*full"), 30.0, 100.0, 4)
    assert found.supported
    assert (found.low, found.value, found.high) == (0.3, 0.3, 0.3)
    assert "interval" not in str(found)
    assert not claim.counted(Target.parse("kv<=10B"), 30.0, 100.0, 4).supported


# --- the search -------------------------------------------------------------------------------------------------------


def _trial(plan: str, cost: float, accuracy: float) -> Trial:
    return Trial(plan, cost, (accuracy,))


def test_the_front_comes_first_and_is_spread_over_the_costs() -> None:
    trials = [_trial("a", 1, 0.9), _trial("b", 1, 0.9), _trial("c", 0.1, 0.2), _trial("d", 0.5, 0.1),
              _trial("e", 0.5, 0.8), _trial("f", 0.52, 0.81)]  # fmt: skip
    assert fronts(trials) == [0, 1, 0, 1, 0, 0]
    assert [t.plan for t in front(trials)] == ["c", "e", "f", "a"]
    assert {t.plan for t in select(trials, 2, lambda t: False)} == {"a", "c"}
    assert [t.plan for t in select(trials, 6, lambda t: t.plan in "ac")][-2:] == ["a", "c"], (
        "what is refuted goes first"
    )


def test_halving_asks_few_plans_many_items() -> None:
    """A plan's accuracy rises with its number; costs are equal, so the best must be left."""
    asked: dict[str, int] = {}

    def ask(plan: str, n: int) -> Trial | None:
        if plan == "p3":
            return None
        asked[plan] = max(n, asked.get(plan, 0))
        return Trial(plan, 1.0, tuple(float(i < int(plan[1:])) for i in range(16))[:n])

    found = halve([f"p{i}" for i in range(17)], [4, 8, 16], ask, lambda t: False, 2)
    assert sum(n == 16 for n in asked.values()) == 4
    assert sum(n == 4 for n in asked.values()) == 8
    assert "p3" not in asked
    assert len(found) == 4
    assert found == halve([f"p{i}" for i in range(17)], [4, 8, 16], ask, lambda t: False, 2)


def test_evolution_finds_what_halving_was_not_given() -> None:
    """Accuracy is best at keep 0.32, which is on no grid; cost is what is kept."""

    def ask(plan: str, n: int) -> Trial:
        keep = Plan.of(plan)[0].keep
        return Trial(plan, 1.0, (1 - abs(keep - 0.32),) * n)

    start = [ask(f"random(keep={k})", 2) for k in (0.5, 0.1)]
    best = evolve(start, 12, 4, mutate, [1, 2], ask, lambda t: False, 2, 0)
    assert max(t.accuracy for t in best) > 0.95 > max(t.accuracy for t in start)
    assert best == evolve(start, 12, 4, mutate, [1, 2], ask, lambda t: False, 2, 0)


PLANS = ["random(keep=0.2)", "pyramiddrop", "fastv(layer=2, keep=0.5)", "llavolta", "divprune(keep=16)", "tome(r=8)",
         "divprune(keep=0.2) + fastv(layer=2, keep=0.5)", "snapkv(keep=0.3)", "visionzip"]  # fmt: skip


@pytest.mark.parametrize("plan", PLANS)
def test_every_change_is_a_plan(plan: str) -> None:
    seen = {mutate(plan, PLANS, Random(i)) for i in range(40)}
    assert len(seen) > 3
    for text in seen - {None}:
        assert text is not None
        assert str(Plan.of(text)) == text != plan


def test_level_switches_keep_the_sum_and_the_product() -> None:
    within, between = CHANGES[:2]
    plan = Plan.of("pyramiddrop(keeps=[0.6, 0.4, 0.2])")
    found = [Plan.of(within(plan, [], Random(i))) for i in range(9)]
    assert all(sum(p[0].keeps) == pytest.approx(1.2) for p in found)
    assert len({str(p) for p in found}) > 2
    two = Plan.of(between(Plan.of("divprune(keep=0.2) + fastv(layer=2, keep=0.5)"), [], Random(0)))
    assert two[0].keep * two[1].keep == pytest.approx(0.1, rel=1e-3)
    assert two[0].keep != 0.2
