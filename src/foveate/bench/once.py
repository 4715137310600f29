"""The vision tower looks at each prompt once, however many plans are asked: most of them do not change what it sees."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..sites.model import anatomy
from ..spec import Plan

#: Signals that are read without running the tower.
OUTSIDE = {
    *("features", "grid", "crop", "times", "pixels", "text"),
    *("last_attention", "next_attention", "last_heads", "next_heads", "transitions"),
    *("queries", "raw_queries", "rotary", "output", "received"),
}


def blind(plan: Plan) -> bool:
    """Whether a plan neither acts in the tower nor reads what happens inside it."""
    return all(m.stage != "encoder" and {n for need in m.card.needs for n in need.split("|")} <= OUTSIDE for m in plan)


@contextmanager
def once(model: Any, plan: Plan, seen: dict[str, Any]) -> Iterator[None]:
    """In the block, one prompt's call of the tower is answered from ``seen``, filled by the first plan that allows it.

    The tower's hooks run as ever; only its blocks do not. Plans that need them run everything.
    """
    encoder = anatomy(model).encoder
    if encoder is None or not blind(plan):
        yield
        return
    own, inside = encoder.forward, "forward" in vars(encoder)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if "tower" not in seen:
            seen["tower"] = own(*args, **kwargs)
        return copy.copy(seen["tower"])  # the sites write notes on it

    encoder.forward = forward
    try:
        yield
    finally:
        if inside:
            encoder.forward = own
        else:
            del encoder.forward
