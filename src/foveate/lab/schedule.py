"""How long a stage lasts, and the learning rate on the way: warm up, stay, and go down over the last fifth."""

from __future__ import annotations

import math
from dataclasses import dataclass

DECAY = 0.2  # of a stage


@dataclass(frozen=True)
class Budget:
    """Seconds of training, or a number of steps; with steps a run is the same on every machine."""

    seconds: float | None = None
    steps: int | None = None

    def part(self, share: float) -> Budget:
        """A share of it."""
        seconds = None if self.seconds is None else self.seconds * share
        return Budget(seconds, None if self.steps is None else round(self.steps * share))

    def gone(self, step: int, seconds: float) -> float:
        """How much of it is used after ``step`` steps: 1 or more means all."""
        if self.steps is not None:
            return step / self.steps if self.steps > 0 else 1.0
        return seconds / self.seconds if self.seconds is not None and self.seconds > 0 else 1.0


def rate(step: int, gone: float, warm: int, decay: float = DECAY) -> float:
    """The learning rate of a step, as a share of the highest.

    Up over ``warm`` steps, level, and down to zero with 1 - sqrt over the last ``decay`` of the budget.
    """
    up = min(1.0, (step + 1) / max(1, warm))
    left = min(1.0, max(0.0, 1 - gone) / decay)  # of the way down
    down = 1 - math.sqrt(1 - left)
    return min(up, down)
