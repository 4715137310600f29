"""One answer in the making: which token comes next, and when it is over."""

from __future__ import annotations

import secrets
import time
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from ..sites.joint import Run
from .task import Ended, Facts, Piece, Task
from .words import Words


class Answering:
    """A task in the making: what was written, and what comes next."""

    def __init__(self, task: Task, run: Run, facts: Facts, key: Hashable, last: int, tokenizer: Any) -> None:
        self.task, self.run, self.facts, self.key, self.last = task, run, facts, key, last
        self.words = Words(tokenizer, task.stops)
        self.text: list[str] = []
        self.tokens, self.next = 0, -1
        self._random = torch.Generator().manual_seed(seed_of(task))

    def write(self, logits: Tensor) -> str | None:
        """Take the next token from logits (V,); returns why the answer is over, or None."""
        scores = self.run.scores(logits)
        if self.task.temperature > 0:
            odds = scores.float().softmax(-1).cpu()
            self.next = int(torch.multinomial(odds, 1, generator=self._random))
        else:
            self.next = int(scores.argmax())
        self.tokens += 1
        if self.next in self.run.ends:
            return "stop"
        self.say(self.words.add(self.next))
        if self.words.stopped:
            return "stop"
        return "length" if self.tokens >= self.task.most else None

    def say(self, text: str) -> None:
        """Tell the client more of the answer."""
        if text:
            self.text.append(text)
            self.task.emit(Piece(text))

    def end(self, reason: str) -> None:
        """Tell the client the rest."""
        self.say(self.words.end())
        seconds = time.monotonic() - self.task.came
        self.task.emit(Ended("stop" if self.words.stopped else reason, self.tokens, seconds, "".join(self.text)))


def sampling(task: Task) -> dict[str, Any]:
    """What generate is told of a task."""
    out: dict[str, Any] = {"max_new_tokens": task.most, "do_sample": task.temperature > 0}
    plain: dict[str, Any] = {"temperature": None, "top_p": None, "top_k": None}
    if task.temperature > 0:
        plain = {"temperature": float(task.temperature), "top_p": task.top_p, "top_k": 0}
    return out | plain


def seed_of(task: Task) -> int:
    """The seed that a task asks for, or a new one; the global generator is left alone."""
    return (secrets.randbits(63) if task.seed is None else task.seed) % 2**63
