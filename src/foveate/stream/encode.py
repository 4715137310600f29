"""Frames to remembered tokens: the model's own encoder, the plan's reductions, and then everything else is let go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from .. import memory
from ..apply import apply
from ..errors import UnsupportedModelError
from ..load import Loaded
from ..prompt import Prompt
from ..report import Report
from ..sites.model import Anatomy, anatomy
from ..spec import Plan
from .seen import Seen

_ADVICE = "use smaller frames, or fewer frames in a clip"
_BLANK = "What happens?"  # no method sees it: those that need the question wait for it


class _Caught(Exception):  # noqa: N818 - it carries what the decoder was about to read, and is no error
    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given


@dataclass(frozen=True)
class _Layout:
    """Where the visual tokens of a clip lie in its prompt. All (V,) of the placeholders in order, -1 at the tail.

    slot: number of the slot in the clip; cell (V, 2); side: longer side of the grid.
    """

    slot: Tensor
    cell: Tensor
    side: Tensor
    slots: int


@torch.inference_mode()
def encode(
    loaded: Loaded,
    frames: Sequence[Image],
    times: Sequence[float],
    plan: Plan,
    *,
    start: int = 0,
    question: str = "",
    report: Report | None = None,
) -> Seen:
    """Encode a clip and keep what the plan leaves of it.

    Args:
        frames: RGB, of one size. times: seconds of each, ascending.
        plan: methods of the stages encoder and inputs. start: number that the clip's first slot gets.
        question: for methods that decide by it. report: gets the counts and times of the methods.

    Raises:
        UnsupportedModelError: a family that cuts frames into tiles with text between them.
        PlanError, SignalError: the plan does not fit the model.
        OutOfMemoryError: with what to reduce.
    """
    content = [{"type": "video", "video": list(frames), "times": list(times)}]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": question or _BLANK}]}]
    parts = anatomy(loaded.model)
    with memory.explained("encoding a clip", _ADVICE):
        prompt = loaded.prompt([messages])
        visual = parts.visual(prompt.inputs["input_ids"])[0]
        layout = _layout(prompt, visual.cpu(), len(frames), parts)
        given, left = _caught(loaded, parts, prompt, plan, report)
    return _seen(given, left, visual, layout, times, start)


def _caught(
    loaded: Loaded, parts: Anatomy, prompt: Prompt, plan: Plan, report: Report | None
) -> tuple[dict[str, Any], Tensor]:
    """What the decoder would be given, and (n,) float: how many tokens a position stands for, -1 where it is gone."""

    def stop(module: Any, args: Any, kwargs: Any) -> None:
        raise _Caught(kwargs)

    size = torch.ones(prompt.n, device=loaded.device)
    with apply(loaded.model, plan) as made:  # entered first, so that its hooks have run when ours does
        hook = parts.decoder.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            loaded.model(**prompt.inputs, use_cache=False)
        except _Caught as caught:
            given = caught.given
        else:
            raise RuntimeError("the model answered without running its language model")
        finally:
            hook.remove()
    for kept in made.kept:
        if kept.where is not None:
            r = kept.reduction.row(0)
            size[kept.where] = -1.0
            size[kept.where[r.keep[0]]] = r.size()[0].to(size)
    if report is not None:
        for row in made.ordered():
            total = report.row(row.stage, row.method, row.layer)
            total.tokens_in, total.tokens_out = total.tokens_in + row.tokens_in, total.tokens_out + row.tokens_out
            total.ms += row.ms
    return given, size


def _seen(
    given: dict[str, Any], size: Tensor, visual: Tensor, layout: _Layout, times: Sequence[float], start: int
) -> Seen:
    stays = size >= 0
    rank = stays.cumsum(0) - 1  # place in the shortened prompt
    inside = (layout.slot >= 0).to(visual.device)  # (V,), without the tail
    at = visual.nonzero()[:, 0]
    mine, end = at[inside & stays[at]], at[~inside & stays[at]]
    x = given["inputs_embeds"][0]
    which = (inside & stays[at]).cpu()
    slot = layout.slot[which]
    width = -(-len(times) // layout.slots)
    first = torch.tensor(times, dtype=torch.float64)[::width]
    last = torch.tensor([times[min(i + width, len(times)) - 1] for i in range(0, len(times), width)]).double()
    deep = x.new_empty(0, len(mine), x.shape[1])
    if given.get("deepstack_visual_embeds"):
        left = at[stays[at]]  # DeepStack has one row for each visual token left
        rows = torch.isin(left, mine)
        deep = torch.stack([d[rows] for d in given["deepstack_visual_embeds"]])
    device = x.device
    return Seen(
        x=x[rank[mine]].clone(),
        deep=deep.clone(),
        slot=(slot + start).to(device),
        time=first[slot].to(device),
        late=last[slot].to(device),
        cell=layout.cell[which].to(device),
        side=layout.side[which].to(device),
        size=size[mine].clone(),
        tail=x[rank[end]].clone(),
        over=torch.tensor([times[0], times[-1]], dtype=torch.float64, device=device),
    )


def _layout(prompt: Prompt, visual: Tensor, frames: int, parts: Anatomy) -> _Layout:
    at = visual.nonzero()[:, 0]
    slot = torch.full((len(at),), -1)
    cell, side = torch.full((len(at), 2), -1), torch.zeros(len(at), dtype=torch.int64)
    number = torch.full((len(visual),), -1)
    number[at] = torch.arange(len(at))
    whole = len(prompt.visuals) == 1 and prompt.visuals[0].grid is not None
    slots = prompt.visuals[0].grid[0] if whole and prompt.visuals[0].grid else frames
    if not whole:
        runs = (torch.diff(at, prepend=at[:1] - 2) > 1).cumsum(0) - 1
        if int(runs.max()) == 0 and len(at) % frames == 0:  # pictures side by side, with nothing between them
            runs = torch.arange(len(at)) // (len(at) // frames)
        if int(runs.max()) + 1 != frames:
            raise UnsupportedModelError(
                f"{parts.name} cuts frames into several pieces with text between them, which cannot be remembered apart"
            )
        slot = runs
    for i, v in enumerate(prompt.visuals):
        if v.grid is None:
            continue
        _, h, w = v.grid
        mine = number[v.where.cpu()]
        order = torch.arange(len(mine))
        slot[mine] = order // (h * w) + (0 if whole else i)
        cell[mine] = torch.stack([order % (h * w) // w, order % w], 1)
        side[mine] = max(h, w)
    if math.prod(slot.shape) and int(slot.max()) >= slots:
        raise UnsupportedModelError(f"{parts.name} lays out a clip of {frames} frames in a way that is not known here")
    return _Layout(slot, cell, side, slots)
