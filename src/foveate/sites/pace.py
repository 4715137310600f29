"""Whether drafting pays, by the clock: a drafter that does not rests, longer each time."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Any


class Pace:
    """Compares seconds a token with drafts and without, and says when to draft.

    A drafter is on trial for ``TRIAL`` forwards; if nothing is known yet of forwards without a draft, ``PROBE`` of them
    follow. Where drafting was slower it rests for ``REST`` forwards, then for twice as many, up to ``LONGEST``; where
    it pays, the latest ``WINDOW`` forwards go on being compared. What it chooses changes when words come, never which:
    while sampling it always says yes, as fewer draws would be other draws.
    """

    TRIAL, PROBE, REST, LONGEST, WINDOW = 6, 2, 24, 384, 12

    def __init__(self, acts: bool = True) -> None:
        self.acts = acts
        self.plain: deque[float] = deque(maxlen=8)  # seconds of forwards that read no draft
        self.drafted: deque[tuple[int, float]] = deque(maxlen=self.WINDOW)  # tokens and seconds of those that did
        self.resting, self.patience, self.rested = 0, self.REST, 0
        self.fixed, self.length = False, 0
        self.memory: dict[str, Any] = {}  # the drafter's own, from call to call

    def begin(self, sample: bool, length: int) -> None:
        """A call begins on so many tokens. What forwards take is not comparable between long and short prompts."""
        self.fixed = sample or not self.acts
        if not self.length / 2 <= length <= self.length * 2:
            self.plain.clear()
            self.drafted.clear()
            self.resting = 0
        self.length = length

    def drafts(self) -> bool:
        """Whether to draft now."""
        if self.fixed or self.resting == 0:
            return True
        self.resting -= 1
        self.rested += 1
        return False

    def took(self, guesses: int, tokens: int, seconds: float) -> None:
        """A forward over so many guesses a row settled so many tokens of it."""
        if guesses == 0:
            self.plain.append(seconds / tokens)
        else:
            self.drafted.append((tokens, seconds))
        if self.fixed or self.resting or len(self.drafted) < self.TRIAL:
            return
        if not self.plain:
            self.resting = self.PROBE
        elif self.ratio > 1.0:
            self.resting, self.patience = self.patience, min(2 * self.patience, self.LONGEST)
            self.drafted.clear()
        else:
            self.patience = self.REST

    @property
    def ratio(self) -> float:
        """Seconds a token with drafts over seconds a token without; above 1 a draft does not pay. 0 if unknown."""
        if not self.plain or not self.drafted:
            return 0.0
        return sum(s for _, s in self.drafted) / sum(t for t, _ in self.drafted) / median(self.plain)
