"""Counts of what follows each context of a few tokens: n-gram models for the filter of superposed decoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..errors import InputError


class NGrams:
    """n-gram models of several orders, mixed with fixed weights.

    Args:
        corpus: texts as token ids; contexts do not reach from one into the next.
        orders: lengths of context. weights: of each; those of contexts never seen are left out, not shared out.
    """

    def __init__(
        self,
        corpus: Iterable[Sequence[int]],
        orders: Sequence[int] = (1, 2, 3, 4, 5),
        weights: Sequence[float] = (0.01, 0.04, 0.15, 0.18, 0.62),
    ) -> None:
        if len(orders) != len(weights) or not orders or min(orders) < 1:
            raise InputError(f"give a weight for each order, orders from 1. Got {list(orders)} and {list(weights)}.")
        self.orders, self.weights = tuple(orders), tuple(weights)
        self._after: dict[tuple[int, ...], Counter[int]] = {}
        for text in corpus:
            for n in self.orders:
                for i in range(len(text) - n):
                    context = tuple(text[i : i + n])
                    self._after.setdefault(context, Counter())[text[i + n]] += 1

    def __call__(self, text: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """The mixed probability of each of ``tokens`` after ``text``; 0 where no order has seen it."""
        out = [0.0] * len(tokens)
        for n, weight in zip(self.orders, self.weights):
            seen = self._after.get(tuple(text[-n:])) if len(text) >= n else None
            if seen:
                total = seen.total()
                out = [q + weight * seen[t] / total for q, t in zip(out, tokens)]
        return out
