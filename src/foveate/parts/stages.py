"""Where a method that acts several times sits in a stack of layers, and how much each of its stages leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import OptionError


def starts(given: Sequence[int] | None, depths: Sequence[float], layers: int) -> tuple[int, ...]:
    """Layers before which the stages act: those given, or else these shares of the depth, never before layer 1."""
    return tuple(given) if given else tuple(max(1, min(layers - 1, int(depth * layers))) for depth in depths)


def even(stages: int) -> tuple[float, ...]:
    """Depths that cut a stack into equal parts, one more than there are stages: three stages at 1/4, 1/2 and 3/4."""
    return tuple(s / (stages + 1) for s in range(1, stages + 1))


def due(at: Sequence[int], values: Sequence[float], layer: int) -> float:
    """The value of the stage that acts before this layer; in a shallow stack stages may meet, and the last counts."""
    return [value for start, value in zip(at, values) if start == layer][-1]


def equally_long(method: Any, *names: str) -> None:
    """Refuse options that list the stages in different numbers; one that is None takes any.

    Raises:
        OptionError: the lists are not equally long.
    """
    values = {name: getattr(method, name) for name in names if getattr(method, name) is not None}
    if len({len(value) for value in values.values()}) > 1:
        shown = " and ".join(repr(value) for value in values.values())
        raise OptionError(f"{' and '.join(map(repr, values))} of {method.name} must be equally long. Got {shown}.")
