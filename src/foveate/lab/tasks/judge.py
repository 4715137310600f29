"""How right an answer is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .words import pieces


def score(said: str, answer: str, task: str = "") -> float:
    """1 for the right answer, else 0; case, spaces and a final stop do not count. For "describe", F1 over the phrases.

    said: what a model answered. A description may list its things in any order.
    """
    if task == "describe":
        want, got = (_phrases(t) for t in (answer, said))
        shared = sum(min(want.count(p), got.count(p)) for p in set(want))
        return 2 * shared / (len(want) + len(got)) if want and got else 0.0
    return float(_plain(said) == _plain(answer))


def _plain(text: str) -> str:
    return "".join(pieces(text.strip().rstrip(".").lower()))


def _phrases(text: str) -> list[str]:
    return [p for p in (_plain(part) for part in text.split(",")) if p]


def prior(answers: Iterable[str]) -> float:
    """How often the most frequent answer is right: what a model reaches that looks at nothing."""
    counts = Counter(answers)
    return max(counts.values(), default=0) / max(1, counts.total())
