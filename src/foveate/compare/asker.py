"""One question under one plan, alone: what was said, what was kept, how long it took, what it cost."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from typing import Any

from ..ask import answer
from ..bench.kept_lines import in_a_line
from ..bench.results import commit, machine
from ..drawing import slots
from ..errors import MediaError
from ..lab.evaluate import needed_tokens
from ..load import Loaded
from ..prompt import Prompt
from ..prompting import prompted
from ..report import Report
from ..spec import Plan
from ..tune.questions import Question
from . import peak
from .counts import Counts
from .keys import Keys, digest


class Asker:
    """A model that is asked, one question at a time.

    Args:
        loaded: the model. frames: sampled from a video file. limit: new tokens of an answer; None for a little more
            than the right answer has. seed: of torch's generators. run: what tells this run from others in the log.
        device: the kind that answers; None for where the model is.
    """

    def __init__(
        self, loaded: Loaded, frames: int, limit: int | None, seed: int, run: str, device: str | None = None
    ) -> None:
        self.loaded, self.frames, self.limit, self.seed = loaded, frames, limit, seed
        self.keys = Keys(loaded, device or loaded.device.type, [frames, seed])
        self.counts = Counts(loaded)
        self.about = {
            "model": loaded.name, "weights": self.keys.model[:10], "seed": seed, "run": run,
            "worker": f"{socket.gethostname()}:{os.getpid()}", "commit": commit(), "machine": machine(),
        }  # fmt: skip
        self._warm: set[str] = set()

    def key(self, question: Question, plan: Plan, asked: str | None = None) -> str:
        """Of an answer. asked: :func:`foveate.compare.keys.digest` of the question, where it is known."""
        return self.keys.key(plan, digest(question.messages) if asked is None else asked, self.most(question))

    def most(self, question: Question) -> int:
        """New tokens that an answer may have."""
        if self.limit is not None:
            return self.limit
        words = self.loaded.builder.tokenizer
        return max(8, 4 + max(len(words(a, add_special_tokens=False)["input_ids"]) for a in question.answers))

    def entry(self, task: str, i: int, question: Question, plan: Plan, key: str) -> dict[str, Any]:
        """A line of the log, or {"failed": why, "media": whether the question's files are to blame}.

        The first question that a plan is asked is asked twice, and the second time counts: whatever is made ready on
        first use is ready then.
        """
        head = {"key": key, "task": task, "i": i, "plan": str(plan) or "none"}
        try:
            if str(plan) not in self._warm:
                self.ask(question, plan)
                self._warm.add(str(plan))
            found = self.ask(question, plan)
        except MediaError as error:
            return {**head, "failed": in_a_line(error), "media": True}
        except Exception as error:  # a fault in one plan must not end the comparison; it is named in the results
            return {**head, "failed": in_a_line(error), "media": False}
        asked = {"question": question.messages[-1]["content"][-1]["text"], "wanted": list(question.answers)}
        when = datetime.now(UTC).isoformat(timespec="seconds")
        return {**head, **asked, **found, **self.about, "when": when}

    def ask(self, question: Question, plan: Plan) -> dict[str, Any]:
        """Words, score and measures of one answer. Times are seconds from the call of ``generate``; sizes are bytes."""
        prompt, chosen = prompted(self.loaded, question.messages, plan, self.frames)
        measured = peak.begin(self.loaded.device)
        said = answer(self.loaded, prompt, plan, max_new_tokens=self.most(question), seed=self.seed)
        held = peak.peak(self.loaded.device) if measured else None
        rows = [*chosen.rows, *said.report.ordered()]
        cost = self.counts.with_plan(said.report, prompt)
        return {
            "said": said.text,
            "score": question.score(said.text),
            "tokens": said.tokens,
            "prompt": said.prompt_tokens,
            **_seen(question, prompt, said.report, bool(chosen.rows)),
            "sites": [[r.stage, r.layer, r.method, r.tokens_in, r.tokens_out] for r in rows],
            "first": said.first_token,
            "seconds": said.seconds,
            "peak": held,
            "kv": cost["kv"],
            "flops": cost["flops"],
        }


def _seen(question: Question, prompt: Prompt, report: Report, chosen: bool) -> dict[str, Any]:
    """Visual tokens before ("visual") and after inputs and layers ("left"), and "evidence": the share of the tokens on
    which the answer can be seen that are left in their place; None where that is not known.
    """
    ended = slots(prompt, report.kept, ("inputs", "layers"))
    visual, left, evidence = 0, 0, []
    for v in prompt.visuals:
        where = v.where.cpu()
        stays = ended[v.row, where] == where
        visual, left = visual + len(where), left + int(stays.sum())
        # of frames that a method chose, those that would have shown the answer may be missing
        if question.item is not None and v.grid is not None and not chosen:
            needed = needed_tokens(question.item, v)
            if bool(needed.any()):
                evidence.append(float(stays.view(v.grid)[needed].float().mean()))
    return {"visual": visual, "left": left, "evidence": sum(evidence) / len(evidence) if evidence else None}
