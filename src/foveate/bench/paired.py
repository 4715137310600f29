"""Statistics of two plans that were asked the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..lab.evaluate import Z, wilson


def mean(values: Sequence[float]) -> float:
    """Of no values, 0."""
    return sum(values) / len(values) if values else 0.0


def share(scores: Sequence[float]) -> dict[str, float]:
    """Accuracy with Wilson's 95% interval; for scores between 0 and 1, which vary less, the interval is too wide."""
    low, high = wilson(sum(scores), len(scores))
    return rounded({"accuracy": mean(scores), "low": low, "high": high})


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Mean of first - second over paired scores, with Agresti and Min's 95% interval.

    That is the normal interval of McNemar's test with half a pair added to each of the four cells, so that it is never
    empty, also where the two always agree.
    """
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    n = len(gaps) + 2
    middle = sum(gaps) / n
    spread = max(0.0, (sum(g * g for g in gaps) + 1) / n - middle * middle)
    half = Z * math.sqrt(spread / n)
    return mean(gaps), max(-1.0, middle - half), min(1.0, middle + half)


def mcnemar(first: Sequence[float], second: Sequence[float]) -> tuple[float, int, int]:
    """McNemar's exact test of two plans on the same items: (p, items where first is better, where second is).

    Two-sided: how likely so uneven a share of the items on which they differ is, if either side were as likely. For
    scores between 0 and 1 it is the sign test. 1 where they never differ.
    """
    better = sum(a > b for a, b in zip(first, second, strict=True))
    worse = sum(a < b for a, b in zip(first, second, strict=True))
    n = better + worse
    tail = sum(math.comb(n, k) for k in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**n), better, worse


def named(prefix: str, found: tuple[float, float, float]) -> dict[str, float]:
    """A difference as entries of a row: prefix, prefix_low, prefix_high."""
    return rounded(dict(zip((prefix, f"{prefix}_low", f"{prefix}_high"), found)))


def rounded(row: dict[str, float]) -> dict[str, float]:
    """Four digits say all that hundreds of items can."""
    return {k: round(v, 4) for k, v in row.items()}
