"""Plans as clients give them: text of methods with numbers and choices, never a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import OptionError, PlanError
from ..families import AUTO
from ..method import OneOf, options
from ..spec import Plan, get, make, parse
from .problems import bad

LONGEST, MOST = 1000, 8  # characters of a plan, and methods in it
_NONE = Plan.of("")
_SEEN_BY = ("inputs", "layers", "encoder", "media", "cache")  # whose 'keep' a request means, the first that has one


def client_plan(
    text: str | None,
    keep: float | int | None,
    own: Plan,
    allowed: tuple[str, ...] | None = None,
    auto: Plan = _NONE,
) -> Plan:
    """The plan that a request asks for.

    Args:
        text: the plan, "none" for the full model, "auto" for ``auto``, or None for the server's ``own``.
        keep: share or count for the first method that keeps visual tokens, or None.
        allowed: if given, the texts of the plans that may be asked for besides the server's own.
        auto: the plan of the model's family.

    Raises:
        PlanError: it cannot be read, names no known method, or gives an option a value that it cannot have or that
            is a file of the server.
        Problem: it is not allowed here, or nothing in it takes ``keep``.
    """
    plan = own if text is None else _read(text, auto)
    if allowed is not None and str(plan) not in {str(_read(a, auto)) for a in allowed} | {str(own)}:
        raise bad("This server answers with its own plans only.", "foveate.plan", "plan_not_allowed")
    return plan if keep is None else with_keep(plan, keep)


def with_keep(plan: Plan, keep: float | int) -> Plan:
    """The plan with ``keep`` given to the first method that has it, of those that drop visual tokens.

    Raises:
        OptionError: a value that the method refuses.
        Problem: no method takes it.
    """
    for stage in _SEEN_BY:
        for m in plan.at(stage):
            if "keep" in options(type(m)):
                kept = dataclasses.replace(m, keep=keep)
                return Plan.of([kept if x is m else x for x in plan])
    raise bad("No method of the plan takes 'keep'.", "foveate.keep", "invalid_plan")


def _read(text: str, auto: Plan) -> Plan:
    if text.strip().lower() in ("", "none"):
        return _NONE
    if text.strip().lower() == AUTO:
        return auto
    if len(text) > LONGEST:
        raise PlanError(f"a plan is at most {LONGEST} characters long")
    try:
        steps = parse(text, _make)
    except (RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError("cannot read the plan; write it as 'name(option=value) + name(option=value)'") from error
    if len(steps) > MOST:
        raise PlanError(f"a plan has at most {MOST} methods. Got {len(steps)}.")
    return Plan.of(steps)


def _make(name: str, given: Mapping[str, Any]) -> Any:
    """A method, its options looked at before they are: a check of an option may look whether a file is there."""
    known = options(get(name))
    for key, value in given.items():
        field = known.get(key)
        words = field is not None and isinstance(field.metadata.get("check"), OneOf)
        if not words and not _number(value):
            raise OptionError(f"{key!r} of {name} takes no text from clients; files and models are the server's")
    return make(name, given)


def _number(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return len(value) <= 256 and all(_number(v) for v in value)
    return value is None or (isinstance(value, bool | int | float) and abs(value) < 2**53)
