"""The class that lmms-eval runs: answers its requests one by one, greedily, with a plan in place."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.model import lmms

from ..ask import answer, plan_of
from ..errors import InputError
from ..load import load
from ..prompting import prompted
from .messages import converted

DEFAULT_NEW_TOKENS = 256
ROUNDS = 64  # of a task of several rounds, at most


class Foveate(lmms):  # type: ignore[misc]
    """A model with a plan.

    Args:
        pretrained: a built-in name, a folder or a hub id.
        plan: text, a .yaml file, "auto" or "none". Text with commas stands in quotes: plan="fastv(layer=2, keep=0.5)".
        frames: sampled from each video file; ``max_num_frames`` says the same.
        dtype, device: as for :func:`foveate.load`. seed: of torch's generators while answering.
        system_prompt: said first, or a file that holds it.
        log: a file that gets a JSON line an answer: times, and tokens before and after every site.
        batch_size, max_batch_size: lmms-eval's; requests are answered one at a time whatever they are.

    Raises:
        InputError: an argument that there is not, or no model. FoveateError: as :func:`foveate.load` and
            :func:`foveate.ask`.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "",
        plan: str = "auto",
        frames: int = 16,
        max_num_frames: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
        seed: int = 0,
        system_prompt: str = "",
        log: str = "",
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
        **more: Any,
    ) -> None:
        super().__init__()
        if more:
            hint = '; a plan with commas stands in quotes: plan="fastv(layer=2, keep=0.5)"' if "(" in str(plan) else ""
            raise InputError(f"foveate has no model argument {', '.join(map(repr, more))}{hint}")
        if not pretrained:
            raise InputError("name a model: --model_args pretrained=lab/image,plan=foveal(keep=0.25)")
        place = int(os.environ.get("LOCAL_RANK", 0)) if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None
        if place is not None and torch.cuda.is_available():  # one process a GPU, started by accelerate or torchrun
            device = f"cuda:{place}"
        self.loaded = load(str(pretrained), dtype=dtype, device=device)
        self.plan = plan_of(str(plan).strip().strip("\"'"), self.loaded.vision, self.loaded.family)
        self.frames, self.seed = int(max_num_frames or frames), int(seed)
        if self.frames < 1:
            raise InputError(f"'frames' must be at least 1. Got {self.frames}.")
        self.system = self._resolve_system_prompt(system_prompt)
        self.log = Path(log) if log else None
        self.batch_size = 1
        if str(batch_size) != "1":
            warnings.warn(f"requests are answered one at a time; batch_size={batch_size} changes nothing", stacklevel=2)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.loaded.device

    def generate_until(self, requests: list[Any]) -> list[str]:
        """An answer to each request, in order."""
        out = []
        for request in requests:
            _, to_messages, given, doc_id, task, split = request.args
            messages = to_messages(self.task_dict[task][split][doc_id])
            out.append(self._answer(messages, dict(given or {}), task, doc_id))
            self.cache_hook.add_partial("generate_until", (request.args[0], given), out[-1])
        return out

    def generate_until_multi_round(self, requests: list[Any]) -> list[list[str]]:
        """The answers of all rounds of each request; the task says what is asked next, and when it ends.

        Raises:
            InputError: a task that does not end.
        """
        out = []
        for request in requests:
            _, to_messages, given, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            said: list[str] = []
            messages, info = to_messages(doc), None
            for turn in range(1, ROUNDS + 1):
                said.append(self._answer(messages, dict(given or {}), task, doc_id))
                told = to_messages(doc, round_idx=turn, previous_output=list(said), previous_round_info=info)
                if not (isinstance(told, tuple) and len(told) == 4) or told[1]:
                    break
                messages, _, _, info = told
            else:
                raise InputError(f"{task}: question {doc_id} goes on after {ROUNDS} rounds")
            out.append(said)
        return out

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Not given: a plan decides what is kept when a prompt is read, and scored answers would be part of it."""
        raise NotImplementedError("foveate answers in words; choose a task with output_type generate_until")

    def _answer(self, messages: list[dict[str, Any]], given: dict[str, Any], task: str, doc_id: Any) -> str:
        if given.get("do_sample") or float(given.get("temperature") or 0) > 0 or int(given.get("num_beams") or 1) > 1:
            warnings.warn(f"{task} asks for sampling or beams; foveate decodes greedily", stacklevel=2)
        prompt, chosen = prompted(self.loaded, converted(messages, self.system), self.plan, self.frames)
        most = int(given.get("max_new_tokens") or DEFAULT_NEW_TOKENS)
        said = answer(self.loaded, prompt, self.plan, max_new_tokens=most, seed=self.seed)
        text = until(said.text, given.get("until"))
        if self.log is not None:
            rows = [*chosen.rows, *said.report.ordered()]
            line = {"task": task, "doc": doc_id, "plan": str(self.plan), "said": text, "tokens": said.tokens,
                    "prompt": said.prompt_tokens, "first": said.first_token, "seconds": said.seconds,
                    "sites": [[r.stage, r.layer, r.method, r.tokens_in, r.tokens_out] for r in rows]}  # fmt: skip
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return text


def until(text: str, stops: Any) -> str:
    """A text up to the first of some marks. stops: one, a list of them, or None."""
    marks = [stops] if isinstance(stops, str) else list(stops or [])
    return text[: min([len(text), *(text.index(m) for m in marks if m and m in text)])]
