"""One request on its way through the engine, and what it is told on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..drawing import slots
from ..prompt import Prompt
from ..report import Kept, Report
from ..spec import Plan
from .media import Medium
from .problems import Problem, cancelled, timeout

_BEFORE_CACHE = ("encoder", "inputs", "layers")


@dataclass(frozen=True)
class Facts:
    """What reading a prompt cost.

    Attributes:
        prompt_tokens: before any reduction. before, after: visual tokens, and those of them that reached the end.
        kv_bytes, kv_bytes_full: of keys and values right after the prompt was read, and without the plan.
        flops, flops_full: of the language model and the shortened towers; ms: spent on deciding.
        kept: the decisions, for drawing. cached: tokens of the prompt that an earlier request had read.
    """

    plan: str
    prompt_tokens: int
    before: int
    after: int
    kv_bytes: int
    kv_bytes_full: int
    flops: float
    flops_full: float
    ms: float
    declined: tuple[str, ...]
    kept: tuple[Kept, ...] = field(repr=False)
    cached: int = 0

    @classmethod
    def of(cls, plan: Plan, prompt: Prompt, visual: Tensor, report: Report) -> Facts:
        """visual: (n,) bool, the placeholders of the prompt's one row."""
        told = report.as_dict()
        ended = slots(prompt, report.kept, _BEFORE_CACHE)[0]
        stay = (ended == torch.arange(len(ended))) & visual.cpu()
        return cls(
            str(plan),
            prompt.n,
            int(visual.sum()),
            int(stay.sum()),
            told["kv_bytes"],
            told["kv_bytes_full"],
            told["flops"],
            told["flops_full"],
            sum(r["ms"] for r in told["sites"]),
            tuple(report.declined),
            tuple(report.kept),
        )


@dataclass(frozen=True)
class Begun:
    """The prompt was read. seconds: since the request came."""

    facts: Facts
    seconds: float
    prompt: Prompt = field(repr=False)


@dataclass(frozen=True)
class Piece:
    """More of the answer."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The answer is whole. reason: "stop" or "length". seconds: since the request came."""

    reason: str
    tokens: int
    seconds: float
    text: str


@dataclass(frozen=True)
class Failed:
    """There is no answer, or no more of it."""

    problem: Problem


Event = Begun | Piece | Ended | Failed


@dataclass(eq=False)
class Task:
    """A request that is ready to be answered.

    Attributes:
        plan: methods of all stages. messages: with pictures in them; media: the same, with their digests.
        prompt: inputs, or None where methods of stage media choose frames first.
        most: new tokens. temperature: 0 is greedy. until: deadline on the clock of ``time.monotonic``.
        emit: called with every event, on the engine's thread; it must not wait.
        reuse: whether what earlier requests left may be used.
    """

    plan: Plan
    messages: list[dict[str, Any]]
    media: Sequence[Medium]
    prompt: Prompt | None
    most: int
    until: float
    emit: Callable[[Event], None]
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    stops: Sequence[str] = ()
    reuse: bool = True
    name: str = ""
    came: float = field(default_factory=time.monotonic)
    _gone: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Nobody waits for the answer any more; what it holds is freed before the next step."""
        self._gone.set()

    @property
    def over(self) -> Problem | None:
        """Why the task must not go on, or None."""
        if self._gone.is_set():
            return cancelled()
        return timeout() if time.monotonic() > self.until else None

    @property
    def digests(self) -> tuple[str, ...]:
        """What its media are, in order."""
        return tuple(m.digest for m in self.media)
