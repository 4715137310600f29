"""Changing a plan a little: a level up here and down there, an option, a method more or fewer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from ..errors import PlanError
from ..method import Check, Many, OneOf, Range, options
from ..spec import Plan

FACTOR = 1.25  # one level of a share
#: Options that say which code a method follows and which chance it takes; no level of anything.
FIXED = ("variant", "seed")
TRIES = 8

Change = Callable[[Plan, Sequence[str], Random], list[Any] | None]


def mutate(plan: str, others: Sequence[str], chance: Random) -> str | None:
    """Another plan near this one, or None if none was found. others: plans it may take a method from."""
    steps = Plan.of(plan)
    for _ in range(TRIES):
        try:
            changed = CHANGES[chance.randrange(len(CHANGES))](steps, others, chance)
            if changed is not None and str(made := Plan.of(changed)) != str(steps) and made:
                return str(made)
        except PlanError:  # a value that a method's own rules refuse
            continue
    return None


def _switch_in_list(plan: Plan, others: Sequence[str], chance: Random) -> list[Any] | None:
    """EvoPress's level switch: one stage or layer keeps more, another less, and their sum stays."""
    found = [(k, name, value) for k, name, value, rule in _options(plan) if _shares(value, rule)]
    if not found:
        return None
    k, name, value = found[chance.randrange(len(found))]
    up, down = chance.sample(range(len(value)), 2)
    step = round(min(0.5 * value[down], 1 - value[up], 0.05 * chance.randint(1, 3)), 4)
    levels = [float(v) for v in value]
    levels[up], levels[down] = round(levels[up] + step, 4), round(levels[down] - step, 4)
    return _with(plan, k, name, tuple(levels))


def _switch_between_sites(plan: Plan, others: Sequence[str], chance: Random) -> list[Any] | None:
    """The same between two methods of the plan: one keeps more, another less, and the product of their shares stays."""
    found = [(k, value) for k, name, value, _ in _options(plan) if name == "keep" and isinstance(value, float)]
    if len(found) < 2:
        return None
    (up, high), (down, low) = chance.sample(found, 2)
    factor = min(FACTOR, 1 / high)
    changed = _with(plan, up, "keep", round(high * factor, 4))
    changed[down] = replace(changed[down], keep=round(low / factor, 4))
    return changed


def _level(plan: Plan, others: Sequence[str], chance: Random) -> list[Any] | None:
    """One share a level up or down; all shares of a list together."""
    found = [(k, name, v) for k, name, v, rule in _options(plan) if name == "keep" or _shares(v, rule)]
    if not found:
        return None
    k, name, value = found[chance.randrange(len(found))]
    factor = FACTOR if chance.random() < 0.5 else 1 / FACTOR
    if isinstance(value, int):
        return _with(plan, k, name, max(1, round(value * factor)))
    if isinstance(value, float):
        return _with(plan, k, name, round(min(1.0, value * factor), 4))
    return _with(plan, k, name, tuple(round(min(1.0, float(v) * factor), 4) for v in value))


def _option(plan: Plan, others: Sequence[str], chance: Random) -> list[Any] | None:
    """Any other option, to a neighbouring value."""
    found = [o for o in _options(plan) if o[1] != "keep" and isinstance(o[3], Range | OneOf) and o[2] is not None]
    if not found:
        return None
    k, name, value, rule = found[chance.randrange(len(found))]
    if isinstance(rule, OneOf):
        return _with(plan, k, name, rule.values[chance.randrange(len(rule.values))])
    if isinstance(value, int):
        return _with(plan, k, name, value + chance.choice((-1, 1)))
    return _with(plan, k, name, round(float(value) * chance.choice((FACTOR, 1 / FACTOR)), 4))


def _join(plan: Plan, others: Sequence[str], chance: Random) -> list[Any] | None:
    """A method of another plan as well, at a stage where this plan has none."""
    stages = {m.stage for m in plan}
    found = [m for text in others for m in Plan.of(text) if m.stage not in stages]
    return [*plan, found[chance.randrange(len(found))]] if found else None


def _leave(plan: Plan, others: Sequence[str], chance: Random) -> list[Any] | None:
    """A method fewer."""
    if len(plan) < 2:
        return None
    out = chance.randrange(len(plan))
    return [m for k, m in enumerate(plan) if k != out]


#: A level more or less is tried most: it is what plans differ by.
CHANGES: tuple[Change, ...] = (_switch_in_list, _switch_between_sites, _level, _level, _option, _join, _leave)


def _options(plan: Plan) -> Iterator[tuple[int, str, Any, Check]]:
    """(method's place, option, value, its check) of all that may be changed."""
    for k, m in enumerate(plan):
        for name, f in options(type(m)).items():
            if name not in FIXED and f.metadata.get("check") is not None:
                yield k, name, getattr(m, name), f.metadata["check"]


def _shares(value: Any, rule: Check) -> bool:
    """Whether an option lists the shares that stages or layers keep."""
    inner = rule.item if isinstance(rule, Many) else rule
    numbers = isinstance(value, tuple) and len(value) > 1 and all(isinstance(v, int | float) for v in value)
    return numbers and all(0 < v <= 1 for v in value) and not (isinstance(inner, Range) and inner.high > 1)


def _with(plan: Plan, k: int, name: str, value: Any) -> list[Any]:
    return [replace(m, **{name: value}) if i == k else m for i, m in enumerate(plan)]
