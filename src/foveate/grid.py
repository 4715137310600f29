"""Which method works on which model, as the documentation shows it."""

from __future__ import annotations

from typing import Any

from .apply import check
from .errors import FoveateError, SignalError
from .sites.model import anatomy
from .spec import Plan


def cell(model: Any, cls: type[Any]) -> str | None:
    """None where a method at its defaults works on a model; else what is missing."""
    try:
        check(anatomy(model), Plan.of(cls()))
    except SignalError as error:
        return str(error).split(" (")[0]
    except FoveateError as error:
        return str(error)
    return None
