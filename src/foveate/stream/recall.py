"""Answering from remembered tokens: they take their place in the prompt, and nothing is decoded or encoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..ask import Answer, answer
from ..load import Loaded
from ..prompt import Progress
from ..sites.model import Anatomy, anatomy
from ..sites.vision import NOTE, Note
from ..spec import Plan
from .prompts import Part, recalled
from .seen import Seen


@dataclass(frozen=True)
class Source:
    """A stretch of video that an answer was given from.

    Attributes:
        video: its name.
        start, stop: seconds of its first and last frame.
        score: how well it fits the question, among those looked at (1.0 where there was no choice).
        tokens: visual tokens of it in the prompt.
    """

    video: str
    start: float
    stop: float
    score: float = 1.0
    tokens: int = 0

    def __str__(self) -> str:
        return f"{self.video} [{clock(self.start)} - {clock(self.stop)}]"


def clock(seconds: float) -> str:
    """Seconds as people read them: 3725.5 -> 1:02:05.5."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    small = f"{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{hours}:{minutes:02d}:{small}" if hours else f"{minutes:02d}:{small}"


@dataclass(frozen=True, eq=False)
class Sourced(Answer):
    """An answer, and what it was given from; see :class:`foveate.Answer`.

    Attributes:
        sources: best first where there was a choice, else in order of time.
    """

    sources: tuple[Source, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        tokens = sum(s.tokens for s in self.sources)
        return {**super().as_dict(), "visual_tokens": tokens, "sources": [vars(s) for s in self.sources]}


@contextmanager
def recall(parts: Anatomy, seen: Sequence[Seen]) -> Iterator[None]:
    """Inside the block, prompts with as many placeholders as there are remembered tokens are given these tokens.

    It must be entered before :func:`foveate.apply`, whose hooks then see the tokens as if they had just been encoded.
    """
    x = torch.cat([t for s in seen for t in (s.x, s.tail)])
    deep = torch.cat([s.deep for s in seen], 1)
    ids: list[Tensor | None] = [None]

    def see(module: Any, args: Any, kwargs: Any) -> None:
        ids[0] = kwargs.get("input_ids", args[0] if args else None)

    def put(module: Any, args: Any, kwargs: Any) -> Any:
        given, embeds = ids[0], kwargs.get("inputs_embeds")
        if given is None or embeds is None or given.shape != embeds.shape[:2]:
            return None
        visual = parts.visual(given)
        if visual.shape[1] < 2 or not bool((visual.sum(1) == len(x)).all()):
            return None
        rows = len(given)
        new = {**kwargs, "inputs_embeds": embeds.clone()}
        new["inputs_embeds"][visual] = x.to(embeds).repeat(rows, 1)
        if len(deep):
            new["visual_pos_masks"] = visual
            new["deepstack_visual_embeds"] = [d.to(embeds).repeat(rows, 1) for d in deep]
        return args, new

    with ExitStack() as stack:
        stack.callback(parts.core.register_forward_pre_hook(see, with_kwargs=True).remove)
        stack.callback(parts.decoder.register_forward_pre_hook(put, with_kwargs=True).remove)
        yield


def remembered(seen: Sequence[Seen]) -> dict[str, Any]:
    """What tells the sites that a prompt brings visual tokens although it brings no pixels, and where these lie."""
    cells, start = [], 0
    for s in seen:
        tokens = s.tokens()
        assert tokens.grid is not None
        grid = tokens.grid[0].clone()
        grid[:, 0] += start
        start = int(grid[:, 0].max()) + 1
        ends = grid.new_tensor([[start - 1, 0, -1]]).expand(len(s.tail), 3)
        cells += [grid, ends]
    columns = torch.cat(cells).T.float()
    tail = torch.cat([s.x.new_full((s.n + len(s.tail),), 0.0).index_fill(0, _tail(s), 1.0) for s in seen]).bool()
    note = Note(ends=tail if bool(tail.any()) else None, scores={"grid": columns})
    return {"remembered": SimpleNamespace(**{NOTE: note})}


def _tail(seen: Seen) -> Tensor:
    return torch.arange(seen.n, seen.n + len(seen.tail), device=seen.x.device)


def answer_from(
    loaded: Loaded,
    parts: Sequence[Part],
    question: str,
    plan: Plan,
    sources: Sequence[Source],
    *,
    max_new_tokens: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sourced:
    """Answer a question from remembered videos.

    plan: what runs when the question is known; see :func:`foveate.stream.split.split`. Raises as :func:`foveate.ask`.
    """
    shown = [(label, s.moved(loaded.device, loaded.model.dtype)) for label, s in parts if s.n]
    prompt = recalled(loaded, shown, question)
    seen = [s for _, s in shown]
    with recall(anatomy(loaded.model), seen):
        inputs: dict[str, Any] = {**prompt.inputs, "mm_encoder_outputs": remembered(seen)}
        prompt.inputs.update(inputs)
        said = answer(loaded, prompt, plan, max_new_tokens=max_new_tokens, seed=seed, progress=progress)
    return Sourced(**{f.name: getattr(said, f.name) for f in fields(Answer)}, sources=tuple(sources))
