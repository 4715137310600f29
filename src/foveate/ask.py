"""Ask a model about images and videos, with a plan in place, and see what was kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import builtin, memory, overlap
from .errors import InputError, UnsupportedCallError
from .families import AUTO, auto
from .load import Loaded, load
from .prompt import Progress, Prompt
from .prompt.contents import Media, contents
from .report import Report
from .spec import Plan
from .video.limits import DEFAULT, Limits

#: What ``ask`` does when it is given images or videos and no plan.
DEFAULT_PLAN = "foveal"

_ADVICE = "use fewer frames, smaller images, fewer new tokens, or a plan that keeps less"


@dataclass(frozen=True, eq=False)
class Answer:
    """What came back, and what it cost.

    Attributes:
        text: the model's words.
        report: what the plan did; see :class:`foveate.report.Report`.
        tokens: new tokens written.
        first_token: seconds from the call of ``generate`` to the first new token.
        seconds: seconds in ``generate``.
        prompt_tokens: tokens of the prompt before any reduction.
        model: name of the model.
        trained: False when its weights are random and the words mean nothing.
        plan: the plan as text; empty for the full model.
        prompt: the inputs, and where each image and video lies in them.
    """

    text: str
    report: Report
    tokens: int
    first_token: float
    seconds: float
    prompt_tokens: int
    model: str
    trained: bool
    plan: str
    prompt: Prompt = field(repr=False)

    @property
    def tokens_per_second(self) -> float:
        """New tokens after the first, a second (0 when there was only one)."""
        after = self.seconds - self.first_token
        return (self.tokens - 1) / after if self.tokens > 1 and after > 0 else 0.0

    @property
    def note(self) -> str:
        """What a reader must know about the words; empty for a trained model."""
        return "" if self.trained else builtin.untrained(self.model)

    def __str__(self) -> str:
        return f"{self.text}\n({self.note})" if self.note else self.text

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "text": self.text,
            "model": self.model,
            "trained": self.trained,
            "note": self.note,
            "plan": self.plan,
            "prompt_tokens": self.prompt_tokens,
            "visual_tokens": sum(len(v.where) for v in self.prompt.visuals),
            "tokens": self.tokens,
            "first_token_seconds": self.first_token,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "report": self.report.as_dict(),
        }

    def kept(self, stages: Sequence[str] = ("inputs", "layers")) -> list[Tensor | None]:
        """For each visual of the prompt, (t, h, w) bool: the tokens that were still there after these stages.

        Decisions are composed in the order they were made. None for a visual whose tokens form no grid.
        """
        from .drawing import slots

        ended = slots(self.prompt, self.report.kept, stages)
        places = [(v, v.where.cpu()) for v in self.prompt.visuals]
        return [(ended[v.row, at] == at).view(v.grid) if v.grid else None for v, at in places]

    def show(self, path: str | PathLike[str]) -> Path:
        """Draw what was kept over the frames and write the picture; returns the path.

        Raises:
            InputError: there is nothing to draw: no image, or tokens that form no grid.
            MediaError: the file cannot be written.
        """
        from .drawing import draw

        title = f"{self.plan or 'the full model'}, {self.model}"
        return draw(self.prompt, self.report.kept, ("inputs", "layers"), title, Path(path))


def ask(
    media: Media,
    question: str,
    *,
    model: str | Path | Loaded | None = None,
    plan: Any = None,
    frames: int = 16,
    max_new_tokens: int = 64,
    guard: bool = False,
    together: bool = False,
    chunk: int | None = None,
    reach: int | None = None,
    decompose: bool = False,
    limits: Limits = DEFAULT,
    seed: int = 0,
    progress: Progress | None = None,
    ahead: bool = True,
) -> Answer:
    """Ask about images and videos.

    Args:
        media: a path or PIL image, or a list of them; a list inside the list is the frames of one video; [] for none.
            A path may name a part of a video, ``clip.mp4[00:10-00:25]``, or a directory: all media in it, by name.
        question: what to ask.
        model: a built-in name, a folder, a hub id, or what :func:`foveate.load` gave; None for the built-in default.
        plan: text, methods or a path to YAML; None means :data:`DEFAULT_PLAN` when there is something to look at;
            "none" runs the full model, "auto" the plan of the model's family.
        frames: how many frames are sampled from each video; methods of stage media choose among them.
        max_new_tokens: the longest answer, in tokens.
        guard: leave out what the guard expects to cost more than it saves.
        together: the images show one scene; see :func:`foveate.apply`.
        chunk, reach: longer prompts go through the decoder in pieces of so many tokens; see :func:`foveate.apply`.
        decompose: methods of stage media compare frames also with simpler questions that the model makes of this one.
        limits: what is refused as too large; see :class:`foveate.video.Limits`.
        seed: of torch's generators while answering; they are put back afterwards. Decoding is greedy.
        progress: called with a step's name, how much is done and how much there is.
        ahead: decode videos of more than :data:`foveate.overlap.INTERVAL` frames while they are encoded, where model
            and plan allow it; see :mod:`foveate.overlap`.

    Raises:
        FoveateError: everything that can be wrong with the media, the question, the plan or the model; see
            :mod:`foveate.errors`.
    """
    if frames < 1:
        raise InputError(f"'frames' must be at least 1. Got {frames}.")
    if max_new_tokens < 1:
        raise InputError(f"'max_new_tokens' must be at least 1. Got {max_new_tokens}.")
    if not isinstance(question, str) or not question.strip():
        raise InputError("the question is empty; ask something")
    content = contents(media, limits)
    plan_of(plan, bool(content))  # what cannot be read is refused before a model is loaded
    if isinstance(model, Loaded):
        loaded = model
    else:
        _tell(progress, "loading", 0, None)
        loaded = load(builtin.default_model() if model is None else model)
    steps = plan_of(plan, bool(content), loaded.family)
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    chosen = Report()
    with ExitStack() as stack:
        coming: overlap.Ahead | None = None
        with memory.explained("the prompt", _ADVICE):
            if media_methods := steps.at("media"):
                from .choose import choose

                messages = choose(loaded, messages, media_methods, frames, chosen, progress, decompose)
            if ahead and overlap.worth(loaded, steps, content, frames):
                coming = stack.enter_context(overlap.opened(loaded, messages, frames, plan=steps, progress=progress))
            prompt = loaded.prompt(messages, frames, progress) if coming is None else coming.prompt
        more: dict[str, Any] = {"guard": guard, "together": together, "chunk": chunk, "reach": reach, "seed": seed}
        said = answer(loaded, prompt, steps, max_new_tokens=max_new_tokens, progress=progress, ahead=coming, **more)
    said.report.rows[:0] = chosen.rows
    return said


def plan_of(plan: Any, visual: bool = True, family: str = "") -> Plan:
    """The plan that ``ask`` runs: None is :data:`DEFAULT_PLAN` (nothing, without images), "none" is the full model.

    "auto" is the plan of a ``family`` (nothing, without images); see :func:`foveate.families.auto`.
    """
    if plan is None:
        return Plan.of(DEFAULT_PLAN if visual else "")
    if isinstance(plan, str) and plan.strip().lower() == AUTO:
        return auto(family) if visual else Plan.of("")
    if isinstance(plan, str) and plan.strip().lower() == "none":
        return Plan.of("")
    return Plan.of(plan)


def answer(
    loaded: Loaded,
    prompt: Prompt,
    plan: Plan,
    *,
    max_new_tokens: int = 64,
    guard: bool = False,
    together: bool = False,
    chunk: int | None = None,
    reach: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    ahead: overlap.Ahead | None = None,
) -> Answer:
    """Generate for a prompt of one row with a plan in place. Raises as :func:`ask` does.

    ahead: what the prompt was made by, if its videos are still to be decoded; their encoding counts as part of
        ``generate``, waiting for frames does not.
    """
    from .apply import apply

    if len(prompt.text) != 1:
        raise UnsupportedCallError(f"ask answers one question at a time. Got a batch of {len(prompt.text)}.")
    watch = _Watch(max_new_tokens, progress)
    devices = [loaded.device] if loaded.device.type == "cuda" else []
    with memory.explained("answering", _ADVICE), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        steps = Plan(m for m in plan if m.stage != "media")
        with apply(loaded.model, steps, guard=guard, together=together, chunk=chunk, reach=reach) as report:
            report.plan = str(plan)
            watch.begin()
            inputs: dict[str, Any] = dict(prompt.inputs)
            if ahead is not None:
                inputs = ahead.inputs()
                watch.start += ahead.waited
            out = loaded.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                streamer=watch,
            )
            seconds = watch.now()
    new = out[:, prompt.n :]
    return Answer(
        text=loaded.decode(new)[0].strip(),
        report=report,
        tokens=int(new.shape[1]),
        first_token=watch.first if watch.first is not None else seconds,
        seconds=seconds,
        prompt_tokens=prompt.n,
        model=loaded.name,
        trained=loaded.trained,
        plan=str(plan),
        prompt=prompt,
    )


class _Watch:
    """A streamer that keeps the time. generate hands it the prompt first, then every new token."""

    def __init__(self, most: int, progress: Progress | None):
        self.most, self.progress = most, progress
        self.first: float | None = None
        self.count = -1  # the prompt counts up to 0

    def begin(self) -> None:
        self.start = time.perf_counter()
        _tell(self.progress, "encoding", 0, None)

    def now(self) -> float:
        return time.perf_counter() - self.start

    def put(self, value: Tensor) -> None:
        self.count += 1 if self.count < 0 else value.numel()
        if self.count > 0:
            self.first = self.now() if self.first is None else self.first
            _tell(self.progress, "answering", self.count, self.most)

    def end(self) -> None:
        _tell(self.progress, "answering", self.most, self.most)


def _tell(progress: Progress | None, step: str, done: int, total: int | None) -> None:
    if progress is not None:
        progress(step, done, total)
