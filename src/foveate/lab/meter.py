"""How far a run of training is, and its history: means over the steps between two records."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from . import steps

STAGES = ("dense", "joint")


@dataclass
class State:
    """How far a run is. seconds, step and pictures are those of the stage; history is of all stages."""

    stage: str = STAGES[0]
    step: int = 0
    seconds: float = 0.0
    pictures: int = 0
    decaying: bool = False
    skipped: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    spent: dict[str, dict[str, float]] = field(default_factory=dict)


class Meter:
    """Means over the steps between two records."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.right: dict[str, list[tuple[float, int]]] = {}
        self.begun, self.pictures = time.perf_counter(), -1

    def add(self, learned: steps.Learned) -> None:
        self.losses.append(learned.told)
        for name, share in learned.right.items():
            self.right.setdefault(name, []).append(share)

    def record(self, stage: str, state: State, lr: float) -> dict[str, Any]:
        """A line of the history; the meter starts anew."""
        now = time.perf_counter()
        done = state.pictures - self.pictures if self.pictures >= 0 else None
        shares = {k: sum(a * n for a, n in v) / sum(n for _, n in v) for k, v in sorted(self.right.items())}
        out = {
            "stage": stage,
            "step": state.step,
            "pictures": state.pictures,
            "seconds": round(state.seconds, 2),
            "loss": sum(self.losses) / len(self.losses),
            "lr": lr,
            "right": {k: round(v, 4) for k, v in shares.items()},
            "pictures_per_second": None if done is None else round(done / (now - self.begun), 1),
        }
        self.losses, self.right, self.begun, self.pictures = [], {}, now, state.pictures
        return out
