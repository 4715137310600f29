"""Sharing a budget of cache entries among layers by a measured importance."""

from __future__ import annotations

from collections.abc import Sequence


def layer_budgets(importance: Sequence[float], total: int, low: int, high: int) -> list[int]:
    """Entries of each layer: ``low`` for all, the rest in proportion to importance, each within [low, high].

    What rounding leaves over or short is settled one by one in rounds, from the most important layer on where entries
    are left, from the least important on where there are too many. The sum is ``total`` where the bounds allow it.
    """
    rest = total - low * len(importance)
    out = [min(high, max(low, low + round(share * rest))) for share in importance]
    best_first = sorted(range(len(out)), key=lambda i: -importance[i])
    while (gap := total - sum(out)) != 0:
        step = 1 if gap > 0 else -1
        free = [i for i in best_first[::step] if low <= out[i] + step <= high][: abs(gap)]
        if not free:
            break
        for i in free:
            out[i] += step
    return out
