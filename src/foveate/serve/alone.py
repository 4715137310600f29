"""Plans whose method decides how to decode: one request at a time, by ``model.generate`` itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..apply import apply
from ..choose import choose
from ..load import Loaded
from ..sites.model import Anatomy
from ..spec import Plan
from .answering import sampling, seed_of
from .costs import filled
from .task import Begun, Ended, Facts, Piece, Task
from .words import Words


class _Done(Exception):  # noqa: N818
    """The answer is whole before generate knows."""


class _Told:
    """A streamer: hands on text as it comes, and ends generate when nobody waits or a stop string came."""

    def __init__(self, task: Task, words: Words, ends: frozenset[int], begun: Callable[[], None]) -> None:
        self.task, self.words, self.ends, self.begun = task, words, ends, begun
        self.text: list[str] = []
        self.tokens, self.reason = -1, "length"  # the prompt counts up to 0

    def put(self, value: Tensor) -> None:
        if (over := self.task.over) is not None:
            raise over
        if self.tokens < 0:
            self.tokens = 0
            return
        for token in value.flatten().tolist():
            if self.tokens == 0:
                self.begun()
            self.tokens += 1
            if token in self.ends:
                self.reason = "stop"
                raise _Done
            self.say(self.words.add(token))
            if self.words.stopped:
                self.reason = "stop"
                raise _Done

    def say(self, text: str) -> None:
        if text:
            self.text.append(text)
            self.task.emit(Piece(text))

    def end(self) -> None:
        """Called by generate."""


def answer_alone(loaded: Loaded, parts: Anatomy, task: Task, visual: Callable[[Tensor], Tensor]) -> None:
    """Answer a task from its prompt to its end on the calling thread.

    visual: ids (1, n) -> (n,) bool, placeholders.

    Raises:
        Problem: the task was cancelled or took too long.
        FoveateError: the plan cannot decode this.
    """
    model, plan = loaded.model, Plan(m for m in task.plan if m.stage != "media")
    own = model.generation_config.eos_token_id
    ends = frozenset([own] if isinstance(own, int) else own or ())
    with torch.random.fork_rng(devices=[loaded.device] if loaded.device.type == "cuda" else []):
        torch.manual_seed(seed_of(task))
        with apply(model, plan) as report:
            prompt = task.prompt
            if prompt is None:
                prompt = loaded.prompt(choose(loaded, task.messages, task.plan.at("media"), 1, report, None))
            marks = visual(prompt.inputs["input_ids"])

            def begun() -> None:
                assert prompt is not None
                facts = filled(Facts.of(task.plan, prompt, marks, report), parts)
                task.emit(Begun(facts, time.monotonic() - task.came, prompt))

            streamer: Any = _Told(task, Words(loaded.builder.tokenizer, task.stops), ends, begun)
            with contextlib.suppress(_Done):
                model.generate(**prompt.inputs, **sampling(task), num_beams=1, streamer=streamer)
    streamer.say(streamer.words.end())
    text = "".join(streamer.text)
    task.emit(Ended(streamer.reason, max(0, streamer.tokens), time.monotonic() - task.came, text))
