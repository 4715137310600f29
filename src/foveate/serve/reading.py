"""Reading one prompt under its plan: from what earlier requests left, as far as that goes, else anew."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..apply import apply, check
from ..choose import choose
from ..load import Loaded
from ..sites.joint import Run, begin
from ..sites.model import anatomy
from ..sites.rows import snapshot
from ..spec import Plan
from .answering import Answering, sampling
from .costs import filled
from .metrics import Metrics
from .problems import Problem
from .reuse import Prefix, Reuse, blind
from .settings import Settings
from .task import Begun, Facts, Task


class Reader:
    """Reads prompts; on the engine's thread alone."""

    def __init__(self, loaded: Loaded, settings: Settings, reuse: Reuse, metrics: Metrics) -> None:
        self.loaded, self.settings, self.reuse, self.metrics = loaded, settings, reuse, metrics
        self.parts = anatomy(loaded.model)

    def read(self, task: Task) -> tuple[Answering, Tensor]:
        """An answer that is ready to be written, and the logits of its first token, (V,).

        Raises:
            Problem: the prompt is too long, or the task is over. FoveateError: the plan cannot serve it.
        """
        model, plan = self.loaded.model, Plan(m for m in task.plan if m.stage != "media")
        want = check(self.parts, plan)  # what the tower is asked for; it cannot be told once the plan is in place
        with apply(model, plan) as report:
            prompt = task.prompt
            if prompt is None:
                messages = choose(self.loaded, task.messages, task.plan.at("media"), 1, report, None)
                prompt = self.loaded.prompt(messages)
            if prompt.n > self.settings.prompt:
                raise Problem(400, "context_length_exceeded", "The prompt is too long for this server.", "messages")
            ids, visual = prompt.inputs["input_ids"][0], self.visual(prompt.inputs["input_ids"])
            last = int(visual.nonzero()[-1]) if bool(visual.any()) else -1
            key = (str(task.plan), task.digests)
            settings = sampling(task)
            may = task.reuse and task.prompt is not None and self.settings.reuse_bytes > 0
            if may and (found := self.reuse.whole(key, ids)) is not None:
                self.metrics.reused.labels("prompt").inc()
                run, logits, facts = self._onwards(prompt.inputs, found, settings), found.logits, found.facts
                run.resume()
            elif may and blind(task.plan) and (found := self.reuse.prefix(key, ids)) is not None:
                self.metrics.reused.labels("prefix").inc()
                run, facts = self._onwards(prompt.inputs, found, settings), found.facts
                logits = run.prefill()
            else:
                run, logits = self._prefill(task, plan, want, prompt.inputs, settings)
                facts = filled(Facts.of(task.plan, prompt, visual, report), self.parts, run.cache)
            if may and facts.cached < prompt.n and run.plain:
                kept = Prefix(key, ids, last, snapshot(run.cache), run.delta, replace(facts, cached=0), logits)
                self.reuse.keep_prefix(kept)
        assert logits is not None
        facts = replace(facts, prompt_tokens=prompt.n)
        first = time.monotonic() - task.came
        self.metrics.read(facts, first)
        task.emit(Begun(facts, first, prompt))
        return Answering(task, run, facts, key, last, self.loaded.builder.tokenizer), logits

    def _onwards(self, inputs: dict[str, Tensor], found: Prefix, settings: dict[str, Any]) -> Run:
        """A run that goes on from what was read; the media are in there already."""
        whole = {k: v for k, v in inputs.items() if v.shape == inputs["input_ids"].shape}
        return begin(self.loaded.model, whole, cache=found.cache, delta=found.delta, **settings)

    def _prefill(
        self, task: Task, plan: Plan, want: frozenset[str], inputs: dict[str, Tensor], settings: dict[str, Any]
    ) -> tuple[Run, Tensor]:
        """Read a whole prompt; its media are encoded only if they were not before."""
        model = self.loaded.model
        pixels = [k for k in inputs if k.startswith("pixel_values")]
        useful = task.reuse and task.prompt is not None and pixels
        if useful and getattr(model, "_supports_mm_encoder_outputs", lambda: False)():
            key = (tuple(map(str, plan.at("encoder"))), want, task.digests)
            if (made := self.reuse.encoded(key)) is not None:
                self.metrics.reused.labels("media").inc()
                inputs = {k: v for k, v in inputs.items() if k not in pixels}
                settings = {**settings, "mm_encoder_outputs": made}
            run = begin(model, inputs, **settings)
            if made is None:
                self.reuse.keep_encoded(key, run.encoded)
        else:
            run = begin(model, inputs, **settings)
        return run, run.prefill()

    def visual(self, ids: Tensor) -> Tensor:
        """(n,) bool: placeholders of visual tokens in ids (1, n)."""
        if not self.parts.visual_ids:
            return torch.zeros_like(ids[0], dtype=torch.bool)
        return self.parts.visual(ids)[0]
