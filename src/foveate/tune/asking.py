"""Asks questions under plans and measures what plans cost; every result is kept, so an interrupted search goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import memory
from ..apply import apply
from ..bench.desk import marked, weights
from ..bench.exam import sources
from ..bench.kept_lines import Lines
from ..bench.paired import mean
from ..drawing import slots
from ..errors import FoveateError, InputError
from ..load import Loaded
from ..prompt import Prompt
from ..spec import Plan
from .questions import Question

#: Stands for the full model.
FULL = ""
PROBED = 4  # questions on which costs are counted, and options without a budget are searched
_SMALLER = "use a smaller batch, or smaller media"


@dataclass(frozen=True)
class Said:
    """Answers to the first questions: words, scores 0 to 1, and new tokens, one each."""

    texts: list[str]
    scores: list[float]
    tokens: list[int]


class Asker:
    """A model and what it is asked.

    Args:
        loaded: the model. questions: in the order in which they are asked.
        batch: questions asked together. max_new_tokens: None for a little more than the longest right answer.
        folder: where results are kept; None keeps them in memory.

    Raises:
        InputError: no question, or a batch below 1.
    """

    def __init__(
        self,
        loaded: Loaded,
        questions: Sequence[Question],
        batch: int = 10,
        max_new_tokens: int | None = None,
        folder: Path | None = None,
    ) -> None:
        if not questions or batch < 1:
            raise InputError(f"there must be a question, and 'batch' at least 1. Got {len(questions)} and {batch}.")
        self.loaded, self.questions, self.batch, self.most = loaded, questions, batch, max_new_tokens
        self.lines = Lines(folder, "tune")
        self.marks = marked()
        self.marks[""] += sources("tune/asking.py", "tune/questions.py", "lab/tasks")
        self.about = [loaded.name, weights(loaded) if folder is not None else "", batch, max_new_tokens]
        self.asked = 0  # answers that were not known before

    # --- answers ------------------------------------------------------------------------------------------------------

    def say(self, plan: str, first: int, n: int) -> Said:
        """Answers to questions ``first`` to ``first + n`` under a plan."""
        out = Said([], [], [])
        for k in range(first // self.batch, -(-(first + n) // self.batch)):
            at = range(k * self.batch, min(len(self.questions), (k + 1) * self.batch))
            few = [self.questions[i] for i in at]
            texts, tokens = self._once("say", plan, [q.mark for q in few], lambda few=few: self._say(plan, few))
            for i, q, text, count in zip(at, few, texts, tokens):
                if first <= i < first + n:
                    out.texts.append(text)
                    out.scores.append(q.score(text))
                    out.tokens.append(count)
        return out

    @torch.inference_mode()
    def _say(self, plan: str, few: Sequence[Question]) -> tuple[list[str], list[int]]:
        words = self.loaded.builder.tokenizer
        longest = max(len(words(a, add_special_tokens=False)["input_ids"]) for q in few for a in q.answers)
        with memory.explained("a batch of questions", _SMALLER), apply(self.loaded.model, plan):
            prompt = self.loaded.prompt([q.messages for q in few])
            out = self.loaded.model.generate(
                **prompt.inputs, max_new_tokens=self.most or max(8, longest + 4), do_sample=False, num_beams=1,
                temperature=None, top_p=None, top_k=None,
            )  # fmt: skip
        self.asked += len(few)
        texts = [t.strip() for t in self.loaded.decode(out[:, prompt.n :])]
        return texts, [len(words(t, add_special_tokens=False)["input_ids"]) for t in texts]

    # --- costs --------------------------------------------------------------------------------------------------------

    def kept(self, plan: str) -> float:
        """The share of visual tokens left after a plan, on average over the probed questions."""
        return float(self._once("kept", plan, self._probed(), lambda: self._kept(plan)))

    def cost(self, plan: str) -> dict[str, float]:
        """Of a prompt, on average: "flops" and "kv" bytes, with the plan; and the most "memory", see METRICS."""
        found: dict[str, float] = self._once("cost", plan, self._probed(), lambda: self._cost(plan))
        return found

    def times(self, plan: str, rounds: int) -> tuple[list[float], list[float]]:
        """Seconds to the first token of ``rounds`` prompts: (plan, full model), in turns, after a warm-up."""
        found = self._once("times", plan, [*self._probed(), str(rounds)], lambda: self._times(plan, rounds))
        return found[0], found[1]

    @property
    def probed(self) -> list[Question]:
        """Questions spread over all."""
        step = len(self.questions) / min(PROBED, len(self.questions))
        return [self.questions[int(k * step)] for k in range(min(PROBED, len(self.questions)))]

    def _probed(self) -> list[str]:
        return [q.mark for q in self.probed]

    def prompt(self, question: Question) -> Prompt:
        """A question's prompt, media included."""
        return self.loaded.prompt(question.messages)

    @torch.inference_mode()
    def _kept(self, plan: str) -> float:
        left: list[float] = []
        for question in self.probed:
            prompt = self.prompt(question)
            with apply(self.loaded.model, plan) as report:
                self.loaded.model(**prompt.inputs, logits_to_keep=1)
            ended = slots(prompt, report.kept, ("inputs", "layers"))
            left += [float((ended[v.row, v.where.cpu()] == v.where.cpu()).float().mean()) for v in prompt.visuals]
        return mean(left) if left else 1.0

    @torch.inference_mode()
    def _cost(self, plan: str) -> dict[str, float]:
        flops, kv, peak = list[float](), list[float](), list[float]()
        device = self.loaded.device
        for question in self.probed:
            prompt = self.prompt(question)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            with apply(self.loaded.model, plan or self._nothing) as report:
                self.loaded.model(**prompt.inputs, logits_to_keep=1, use_cache=True)
            inside = [r.flops for r in report.rows if r.stage == "encoder" and r.flops_full]
            flops.append(report.flops + (inside[0] if inside else self._tower(prompt)))
            kv.append(float(report.kv_bytes))
            held = sum(p.numel() * p.element_size() for p in self.loaded.model.parameters()) + report.kv_bytes
            peak.append(float(torch.cuda.max_memory_allocated(device) if device.type == "cuda" else held))
        return {"flops": mean(flops), "kv": mean(kv), "memory": max(peak)}

    @property
    def _nothing(self) -> str:
        """A plan that changes nothing: the report counts only where a plan is in place."""
        return "random(keep=1.0)" if self.loaded.vision else "knorm(keep=1.0)"

    def _tower(self, prompt: Prompt) -> float:
        """FLOPs of the vision tower on a prompt, as it is; 0 where it cannot be counted."""
        if not prompt.visuals:
            return 0.0
        try:
            with apply(self.loaded.model, "tome(r=0)") as report:
                self.loaded.model(**prompt.inputs, logits_to_keep=1)
        except FoveateError:
            return 0.0
        return report.row("encoder", "tome(r=0)").flops_full

    @torch.inference_mode()
    def _times(self, plan: str, rounds: int) -> list[list[float]]:
        taken: dict[str, list[float]] = {plan: [], FULL: []}
        step = len(self.questions) / rounds
        for turn in range(-1, rounds):
            prompt = self.prompt(self.questions[int(max(0, turn) * step) % len(self.questions)])
            for which in (plan, FULL) if turn % 2 else (FULL, plan):
                with apply(self.loaded.model, which):
                    begun = time.perf_counter()
                    self.loaded.model(**prompt.inputs, logits_to_keep=1).logits.argmax(-1).tolist()  # waits for a GPU
                    if turn >= 0:
                        taken[which].append(time.perf_counter() - begun)
        return [taken[plan], taken[FULL]]

    # --- what is known already ----------------------------------------------------------------------------------------

    def _once(self, kind: str, plan: str, what: Sequence[str], make: Any) -> Any:
        own = [self.marks.get(m.name, "") for m in Plan.of(plan)]
        parts = [kind, *self.about, plan, list(what), self.marks[""], *own]
        return self.lines.once(parts, make)
