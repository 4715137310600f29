"""A plan of each method for a share of visual tokens, found by what options are called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..method import Many, Range, options

#: Options that list the share left after each stage; the last stage is scaled to the share wanted, the others with it.
STAGED = (("keeps",), ("prune", "merge"))
#: Options that set how much goes where a method has no budget; those of one entry move together.
KNOBS = (
    ("ratio",),
    ("r",),
    ("within",),
    ("thresholds",),
    ("threshold",),
    ("total", "single"),
    ("share",),
    ("scale",),
    ("stride",),
)
#: A plan counts for a share if what it leaves is within this factor of it.
NEAR = 1.5
HALVINGS = 16

Kept = Callable[[Any], float]  # a method -> the mean share of the visual tokens that it leaves


def plan_for(cls: type[Any], keep: float, n: int, kept: Kept) -> Any:
    """A method that leaves as nearly as it can a share of ``n`` visual tokens; its default if no option sets that.

    Args:
        cls: of a method. keep: in (0, 1]. n: visual tokens of a prompt, the most that an option counts.
        kept: measures a method; asked only where the share does not follow from an option.
    """
    has: dict[str, Any] = dict(options(cls))
    if "keep" in has:
        return cls(keep=keep)
    for names in STAGED:
        if all(name in has for name in names):
            last = has[names[-1]].default[-1]
            return cls(**{name: _scaled(has[name].default, last, keep) for name in names})
    tried = []
    for names in KNOBS:
        if all(name in has for name in names):
            tried.append(_search(cls, {name: has[name] for name in names}, keep, n, kept))
            if _near(tried[-1][0], keep):
                break
    return min(tried, key=lambda pair: abs(pair[0] - keep))[1] if tried else cls()


def _near(left: float, keep: float) -> bool:
    return keep / NEAR <= left <= keep * NEAR


def _scaled(shares: tuple[float, ...], last: float, keep: float) -> tuple[float, ...]:
    """What each stage drops, times what makes the last one leave ``keep``."""
    return tuple(round(1 - (1 - float(share)) * (1 - keep) / (1 - last), 4) for share in shares)


def _search(cls: type[Any], knobs: Mapping[str, Any], keep: float, n: int, kept: Kept) -> tuple[float, Any]:
    """Halve the range of the options until what is left is as near as it gets: the share left, and the method."""
    rule = next(iter(knobs.values())).metadata["check"]
    rule = rule.item if isinstance(rule, Many) else rule
    assert isinstance(rule, Range)
    whole = rule.kind is int
    low = rule.low + (1e-4 if rule.open_low else 0)
    high = min(rule.high, n) if whole else rule.high

    def make(value: float) -> Any:
        one = round(value) if whole else round(value, 6)
        given = {name: (one,) * len(f.default) if isinstance(f.default, tuple) else one for name, f in knobs.items()}
        return cls(**given)

    ends = make(low), make(high)
    left = [kept(m) for m in ends]
    if not math.isfinite(low + high) or abs(left[0] - left[1]) < 0.01:
        return left[0], cls()  # nothing to be set on this kind of input
    rising = left[1] > left[0]
    best = min(zip(left, ends), key=lambda pair: abs(pair[0] - keep))
    for _ in range(HALVINGS):
        if whole and high - low <= 1:
            break
        middle = (low + high) // 2 if whole else (low + high) / 2
        made = make(middle)
        share = kept(made)
        if abs(share - keep) < abs(best[0] - keep):
            best = share, made
        if abs(share - keep) < 0.005:
            break
        low, high = (middle, high) if (share < keep) == rising else (low, middle)
    return best


def files(found: Mapping[float, Any], shares: Mapping[str, float]) -> dict[str, float]:
    """Which plan counts for which share: plan as text -> share wanted, each plan for the nearest, others left out.

    found: share wanted -> method. shares: method as text -> share that it left.
    """
    out: dict[str, float] = {}
    for keep, made in found.items():
        text, left = str(made), max(shares[str(made)], 1e-9)
        if not _near(left, keep):
            continue
        if text not in out or abs(math.log(left / keep)) < abs(math.log(left / out[text])):
            out[text] = keep
    return out


def at_shares(cls: type[Any], keeps: Sequence[float], n: int, kept: Callable[[str], float]) -> dict[str, float | None]:
    """A method's plans for some shares of ``n`` visual tokens: plan as text -> share wanted.

    Where none lands near a share it is the method as it is by default, with None. kept: as :data:`Kept`, of a text.
    """
    made = {k: plan_for(cls, k, n, lambda m: kept(str(m))) for k in keeps}
    found: dict[str, float | None] = {**files(made, {str(m): kept(str(m)) for m in made.values()})}
    return found or {str(cls()): None}
