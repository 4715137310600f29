"""The registry of schedules: found by file name, read from text like the methods of a plan."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any, cast

from ..errors import PlanError, UnknownMethodError
from ..spec import build, method_in, nearest, parse
from ._schedule import Schedule


def all_schedules() -> dict[str, type[Any]]:
    """Every schedule's class by name."""
    root = Path(__file__).parent / "schedules"
    names = [info.name for info in pkgutil.iter_modules([str(root)]) if not info.name.startswith("_")]
    return {name: method_in(importlib.import_module(f"{__package__}.schedules.{name}")) for name in names}


def schedule_of(given: Any) -> Schedule:
    """A schedule from text such as ``"threshold(confidence=0.8)"``, or as it is.

    Raises:
        UnknownMethodError: no schedule has that name. PlanError: it is no schedule, or the text cannot be read.
        OptionError: an option it does not have, or a value out of range.
    """
    if isinstance(given, str):
        found = parse(given, _make)
        if len(found) != 1:
            raise PlanError(f"one schedule decodes. Got {len(found)} in {given!r}; write for instance 'threshold'.")
        return cast(Schedule, found[0])
    if isinstance(given, type) or not hasattr(given, "begin") or getattr(given, "stage", None) == "decode":
        raise PlanError(f"a schedule is text such as 'threshold(confidence=0.9)', or an instance. Got {given!r}.")
    return cast(Schedule, given)


def _make(name: str, given: dict[str, Any]) -> Any:
    own = all_schedules()
    if name not in own:
        raise UnknownMethodError(f"no schedule is called {name!r}; {nearest(name, own)}")
    return build(name, own[name], given)
