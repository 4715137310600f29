"""Stage media: which frames of a video are worth a place in the prompt.

A method of this stage sees frames as tokens. What stands for a frame is the mean of the visual tokens that the model
itself makes of its thumbnail, and for the question the embeddings of its words: both lie where the LLM compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, new
from torch import Tensor

from .errors import SignalError
from .load import Loaded
from .parts.thumbnail import sides
from .prompt import Messages, Progress
from .prompt import read as opened
from .prompt.chat import Item
from .questions import decompose
from .reduction import Reduction
from .report import Report
from .sites.model import anatomy
from .tokens import Tokens

#: Signals that this stage gives.
GIVEN = ("features", "text", "times", "pixels")
SIDE, AT_ONCE, SMALL = 224, 8, 32  # longest side of a thumbnail, how many are encoded at a time, side of ``pixels``


class _SeenError(Exception):
    """Carries the prompt's embeddings out of the model, before the LLM would run."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


def choose(
    loaded: Loaded,
    messages: Messages,
    methods: Sequence[Any],
    frames: int,
    report: Report,
    progress: Progress | None,
    split: bool = False,
) -> list[dict[str, Any]]:
    """One conversation with every video replaced by the frames that are left of it, times included.

    A method that has ``scale`` below 1 wants its frames shown smaller, one that has ``cells`` so many on one picture.

    Args:
        loaded: a model that can look. messages: in transformers' chat format, the last one a question.
        methods: of stage media, in order. frames: sampled from a video given as a path, to choose from.
        report: gets a row for each method; tokens are frames.
        split: compare frames also with the simpler questions that the model makes of the question.

    Raises:
        InputError, MediaError: as :func:`foveate.prompt.read`.
        SignalError: a method needs what is not known of frames.
    """
    for m in methods:
        for need in m.card.needs:
            if not set(need.split("|")) & {*GIVEN}:
                raise SignalError(f"{m.name} needs {need.replace('|', ' or ')}; of frames there is {', '.join(GIVEN)}")
    talk = opened(messages, frames, progress)
    items = iter(talk.items)
    question = " ".join(p["text"] for p in talk.messages[-1]["content"] if p["type"] == "text")
    if split and any("text" in need.split("|") for m in methods for need in m.card.needs):
        question = " ".join(dict.fromkeys([question, *decompose(loaded, question)]))
    out = []
    for message in talk.messages:
        content = [_entry(p, items, loaded, question, methods, report, progress) for p in message["content"]]
        out.append({**message, "content": content})
    return out


def _entry(
    part: Mapping[str, Any],
    items: Any,
    loaded: Loaded,
    question: str,
    methods: Sequence[Any],
    report: Report,
    progress: Progress | None,
) -> dict[str, Any]:
    if part["type"] == "text":
        return dict(part)
    item: Item = next(items)
    if part["type"] == "image":
        return {"type": "image", "image": item.frames[0]}
    tokens, left = look(loaded, item, question, methods, progress), torch.arange(len(item.frames))
    for m in methods:
        row = report.row("media", str(m))
        with report.clock(row, tokens.x.device):
            r: Reduction = m.reduce(tokens)
        row.tokens_in, row.tokens_out = row.tokens_in + r.n, row.tokens_out + int((r.keep >= 0).sum())
        tokens, left = tokens.gathered(r), left[r.keep[0][r.keep[0] >= 0].cpu()]
    picked = left.tolist()
    shown = [item.frames[i] for i in picked]
    times = [item.times[i] for i in picked]
    for m in methods:
        shown = [smaller(f, float(getattr(m, "scale", 1.0))) for f in shown]
        cells = int(getattr(m, "cells", 1))
        shown, times = collages(shown, cells), times[::cells]
    return {"type": "video", "video": shown, "times": times}


@torch.inference_mode()
def look(loaded: Loaded, item: Item, question: str, methods: Sequence[Any], progress: Progress | None) -> Tokens:
    """The frames of a video as one row of tokens, with the signals that the methods need."""
    device = loaded.device
    names = {n for m in methods for need in m.card.needs for n in need.split("|")}
    thumbs = [thumbnail(f) for f in item.frames]
    parts = []
    for at in range(0, len(thumbs), AT_ONCE):
        parts.append(embedded(loaded, thumbs[at : at + AT_ONCE], question))
        if progress is not None:
            progress(f"looking through {item.name}", min(at + AT_ONCE, len(thumbs)), len(thumbs))
    given: dict[str, Any] = {}
    if "text" in names:
        ids = loaded.builder.tokenizer(question, add_special_tokens=False, return_tensors="pt")["input_ids"]
        given["text"] = loaded.model.get_input_embeddings()(ids.to(device))
    if "times" in names:
        given["times"] = torch.tensor([item.times], dtype=torch.float32, device=device)
    if "pixels" in names:
        small = [np.asarray(t.resize((SMALL, SMALL))) for t in thumbs]
        given["pixels"] = torch.from_numpy(np.stack(small)).to(device).movedim(-1, 1).float()[None]
    return Tokens(torch.cat(parts)[None], **given)


def smaller(frame: Image, scale: float) -> Image:
    """The frame, its sides scaled by at most 1, none under 2 pixels."""
    if scale >= 1:
        return frame
    return frame.resize((max(2, round(frame.width * scale)), max(2, round(frame.height * scale))))


def collages(frames: Sequence[Image], cells: int) -> list[Image]:
    """Each ``cells`` frames on one picture of the first one's size, row by row; the last may hold black cells."""
    if cells < 2:
        return list(frames)
    rows, columns = sides(cells)
    out = []
    for at in range(0, len(frames), cells):
        sheet = new("RGB", frames[at].size)
        width, height = max(1, sheet.width // columns), max(1, sheet.height // rows)
        for i, frame in enumerate(frames[at : at + cells]):
            sheet.paste(frame.resize((width, height)), (i % columns * width, i // columns * height))
        out.append(sheet)
    return out


def thumbnail(frame: Image) -> Image:
    """The frame, no side longer than 224 pixels."""
    small = frame.copy()
    small.thumbnail((SIDE, SIDE))
    return small


def embedded(loaded: Loaded, images: Sequence[Image], question: str) -> Tensor:
    """What the model makes of each image: the mean of its visual tokens where the LLM would get them, (images, D)."""
    prompt = loaded.prompt(
        [
            [{"role": "user", "content": [{"type": "image", "image": i}, {"type": "text", "text": question}]}]
            for i in images
        ]
    )
    parts = anatomy(loaded.model)
    visual = parts.visual(prompt.inputs["input_ids"])

    def stop(module: Any, args: Any, kwargs: Any) -> None:
        raise _SeenError(kwargs["inputs_embeds"])

    hook = parts.decoder.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        loaded.model(**prompt.inputs, use_cache=False)
    except _SeenError as seen:
        x = seen.x.float().masked_fill(~visual[..., None], 0)
        return x.sum(1) / visual.sum(1, keepdim=True).clamp(min=1)
    finally:
        hook.remove()
    raise RuntimeError("the model answered without running its language model")
