"""Whether measurements support a target: intervals, and how many items it would take where they do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from ..bench.paired import difference, mean
from ..lab.evaluate import Z, wilson
from .target import Target

#: More items than this are not worth naming.
MOST = 10_000_000
FEW = 6  # samples below which no interval of a median exists


@dataclass(frozen=True)
class Finding:
    """A target held against measurements.

    Attributes:
        target: as text. figure: what ``value`` is, in words.
        value, low, high: measured, with its 95% interval; low and high are value itself where it is counted exactly.
        limit: what the interval has to keep to, on the side the target names.
        n: items or prompts measured. supported: whether the whole interval keeps to the limit.
        needed: items that would support it if they came out like these; None where none would, or it is not known.
    """

    target: str
    figure: str
    value: float
    low: float
    high: float
    limit: float
    n: int
    supported: bool
    needed: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {k: _plain(v) for k, v in asdict(self).items()}

    def __str__(self) -> str:
        span = "" if self.low == self.high else f" (95% interval {self.low:.4g} to {self.high:.4g})"
        told = f"{self.figure} is {self.value:.4g}{span} on {self.n}, held to {self.limit:.4g}"
        if self.supported:
            return f"{self.target} is supported: {told}"
        more = f"; about {self.needed:,} like these would support it" if self.needed else ""
        return f"{self.target} is NOT supported: {told}{more}"


def accuracy(target: Target, mine: Sequence[float], full: Sequence[float]) -> Finding:
    """A bound on accuracy. mine, full: scores of the same items, 0 to 1, under the plan and without it.

    Relative bounds are judged on ``score - share * full's score``, paired item by item, so that what is hard for both
    widens nothing; absolute ones by Wilson's interval. One side of a 95% interval is used, which errs once in forty.
    """
    n = len(mine)
    if target.relative:
        gaps = [m - target.bound * f for m, f in zip(mine, full, strict=True)]
        value, low, high = difference(gaps, [0.0] * n)
        square = mean([g * g for g in gaps])
        needed = _items(n, lambda k: _low(value, square, k) >= 0) if value > 0 else None
        figure, limit = f"accuracy - {target.bound:g} x the full model's, paired,", 0.0
    else:
        value, (low, high) = mean(mine), wilson(sum(mine), n)
        figure, limit = "accuracy", target.bound
        needed = _items(n, lambda k: wilson(value * k, k)[0] >= limit) if value > limit else None
    supported = low >= limit
    return Finding(str(target), figure, value, low, high, limit, n, supported, None if supported else needed)


def _low(value: float, square: float, n: int) -> float:
    """The lower end of :func:`foveate.bench.paired.difference` on n items of this mean and mean square."""
    total = n + 2
    middle = n * value / total
    return middle - Z * math.sqrt(max(0.0, (n * square + 1) / total - middle * middle) / total)


def _items(n: int, enough: Callable[[int], bool]) -> int | None:
    """The fewest items that are enough, from n upwards."""
    high = max(1, n)
    while not enough(high):
        high *= 2
        if high > MOST:
            return None
    low = max(1, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def times(target: Target, mine: Sequence[float], full: Sequence[float]) -> Finding:
    """A bound on time. mine, full: seconds of the same prompts, measured in turns.

    Of the medians' intervals no shape is assumed: they run between two of the sorted samples.
    """
    taken = [m / f for m, f in zip(mine, full, strict=True)] if target.relative else list(mine)
    value, low, high = middle(taken)
    figure = "the median time to first token" + (", as a share of the full model's," if target.relative else "")
    supported = high <= target.bound
    needed = FEW if len(taken) < FEW and value <= target.bound else None
    return Finding(str(target), figure, value, low, high, target.bound, len(taken), supported, needed)


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """Median with a 95% interval that holds for any distribution; (0, inf) around fewer than six values."""
    ordered, n = sorted(values), len(values)
    below, j = 0.5**n, 0  # P(at most j of n coins show heads); the interval leaves out j at each end
    while below <= 0.025:
        j += 1
        below += math.comb(n, j) * 0.5**n
    if j == 0:
        return median(ordered), 0.0, math.inf
    return median(ordered), ordered[j - 1], ordered[n - j]


def counted(target: Target, value: float, full: float, n: int) -> Finding:
    """A bound on what is counted exactly: FLOPs and bytes of ``n`` prompts."""
    value = value / full if target.relative else value
    share = " as a share of the full model's" if target.relative else ""
    return Finding(str(target), target.metric + share, value, value, value, target.bound, n, value <= target.bound)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
