"""How many tokens to keep."""

from __future__ import annotations


def budget(keep: float | int, n: int, full: int | None = None) -> int:
    """How many of ``n`` tokens to keep. A float is a share of ``full`` (default n), half to even; an int a count.

    The answer is never below 1 (when there is a token at all) nor above n.
    """
    want = keep if isinstance(keep, int) else round(keep * (n if full is None else full))
    return min(n, max(1, want))


def floor_budget(keep: float, n: int, full: int | None = None) -> int:
    """As :func:`budget` for a share, rounded down, as much code of the field does."""
    return min(n, max(1, int(keep * (n if full is None else full))))
