"""The prompt of a question about remembered tokens: as the model's own for the whole video, with fewer placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError, UnsupportedModelError
from ..load import Loaded
from ..prompt import Conversation, Item, Prompt, QwenBuilder, read, render
from ..sites.model import anatomy
from .seen import Seen

#: A video that is remembered, under a name that the prompt tells (empty: it tells none).
Part = tuple[str, Seen]
_STILL = Image.new("RGB", (64, 64))


def recalled(loaded: Loaded, parts: Sequence[Part], question: str) -> Prompt:
    """Remembered videos and a question -> a prompt of one row whose placeholders stand for the remembered tokens.

    The prompt has as many placeholders as there are tokens and no pixels; :func:`foveate.stream.recall.recall` puts the
    tokens in their place. For families with M-RoPE it brings the positions that the tokens have in the whole video.

    Raises:
        InputError: nothing is remembered, the question is empty, or it holds the text of a placeholder.
        UnsupportedModelError: the model cannot look, or reads only videos of one length together.
    """
    parts = [p for p in parts if p[1].n]
    if not parts:
        raise InputError("nothing was seen yet; push frames first")
    if not isinstance(question, str) or not question.strip():
        raise InputError("the question is empty; ask something")
    if not loaded.vision:
        raise UnsupportedModelError(f"{loaded.name} is a text-only model; it cannot look at videos")
    builder = loaded.builder
    if isinstance(builder, QwenBuilder):
        return _qwen(loaded, builder, parts, question)
    return _spliced(loaded, parts, question)


def counts(seen: Seen) -> list[int]:
    """Tokens left of each slot that has any, in order."""
    return [len(list(g)) for _, g in groupby(seen.slot.tolist())]


def _messages(parts: Sequence[Part], question: str, video: Any) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for label, seen in parts:
        content += [{"type": "text", "text": f"{label}: "}] if label else []
        content.append(video(seen))
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def _qwen(loaded: Loaded, builder: QwenBuilder, parts: Sequence[Part], question: str) -> Prompt:
    apart = builder.stamps
    slots = [counts(seen) for _, seen in parts]
    items = [_item(seen, builder.rule.temporal) for _, seen in parts]
    talk = Conversation(_messages(parts, question, lambda _: {"type": "video"}), items)
    text = render(builder.tokenizer, talk)
    builder.check(text, talk)
    if apart:
        text = builder.stamped(text, items, [[len(c), 0, 0] for c in slots])
    runs = iter([r for c in slots for r in (c if apart else [sum(c)])])
    pad, ids = builder.ids["video"], []
    for token in builder.tokenizer(text, add_special_tokens=False)["input_ids"]:
        ids += [token] * (next(runs) if token == pad else 1)
    row = torch.tensor([ids])
    data = {"input_ids": row, "attention_mask": torch.ones_like(row), "mm_token_type_ids": (row == pad).int() * 2}
    seen = [s for _, s in parts]
    data["position_ids"] = positions(row[0] == pad, seen, apart, _pace(loaded))[:, None]
    return Prompt(data, [], [text]).to(loaded.device)


def _item(seen: Seen, temporal: int) -> Item:
    """A video without frames whose times give each slot the stamp it had: the mean of its first and last frame."""
    _, first = seen.slot.unique_consecutive(return_inverse=True)
    starts = torch.cat([first.new_ones(1), first.diff()]).nonzero()[:, 0]
    stamps = ((seen.time + seen.late) / 2)[starts].tolist()
    return Item("video", (), tuple(s for s in stamps for _ in range(temporal)), "video")


def _pace(loaded: Loaded) -> float | None:
    """Positions a second along the time axis; None where slots are counted instead."""
    rate = getattr(loaded.model.config.vision_config, "tokens_per_second", None)
    return float(rate) if rate is not None and loaded.family == "qwen2_5_vl" else None


def positions(visual: Tensor, seen: Sequence[Seen], apart: bool, pace: float | None) -> Tensor:
    """M-RoPE positions as the Qwen family counts them in the whole video. (4, n) int64: text, time, row, column.

    visual: (n,) bool, the placeholders. apart: every slot is a run of its own, told by a stamp in words; otherwise a
    video is one run. pace: positions a second, or None: one for each slot. Text goes on after the longer side of the
    grid, whatever the length of the video, as transformers 5.16 and later count.
    """
    out = torch.zeros(4, len(visual), dtype=torch.int64)
    out[0] = torch.arange(len(visual))
    runs = [m for s in seen for m in (_cut(s) if apart else [torch.arange(s.n)])]
    whole = [s for s in seen for _ in (_cut(s) if apart else [0])]
    at = now = 0
    todo = iter(zip(runs, whole))
    for is_visual, group in groupby(visual.tolist()):
        n = len(list(group))
        if not is_visual:
            out[1:, at : at + n] = now + torch.arange(n)
            now += n
        else:
            which, s = next(todo)
            which = which.to(s.slot.device)
            if apart:
                step = torch.zeros_like(s.slot[which])
            elif pace is None:
                step = s.slot[which]
            else:
                step = (s.time[which] * pace + 1e-3).long()
            out[1, at : at + n] = now + step.cpu()
            out[2:, at : at + n] = now + s.cell[which].T.cpu()
            now += int(s.side[which].max())
        at += n
    return out


def _cut(seen: Seen) -> list[Tensor]:
    """The tokens of each slot."""
    return list(torch.arange(seen.n).split(counts(seen)))


def _spliced(loaded: Loaded, parts: Sequence[Part], question: str) -> Prompt:
    """Other families: the processor's prompt for stand-in frames, its runs of placeholders made as long as needed."""
    for frames in (2, 0):  # 0: as many as there are slots, where each frame is a run of its own

        def video(seen: Seen, many: int = frames) -> dict[str, Any]:
            k = many or len(counts(seen))
            return {"type": "video", "video": [_STILL] * k, "times": [float(i) for i in range(k)]}

        prompt = loaded.builder([read(_messages(parts, question, video))])
        ids = prompt.inputs["input_ids"]
        visual = anatomy(loaded.model).visual(ids)[0]
        edges = torch.diff(visual.int(), prepend=visual.new_zeros(1).int())
        if int((edges == 1).sum()) == len(parts):
            break
    runs = [n for _, s in parts for n in counts(s)] if frames == 0 else [s.n + len(s.tail) for _, s in parts]
    if int((edges == 1).sum()) != len(runs):
        raise UnsupportedModelError(f"{loaded.name} cannot be shown {len(parts)} remembered videos; ask about fewer")
    if frames == 0 and (missing := [s for _, s in parts if len(s.tail)]):
        raise UnsupportedModelError(f"{loaded.name} ends a video in {len(missing[0].tail)} tokens, not known here")
    order: list[int] = []
    lengths = iter(runs)
    where = torch.arange(len(visual))
    for is_visual, group in groupby(zip(visual.tolist(), where.tolist()), key=lambda g: g[0]):
        at = [i for _, i in group]
        order += [at[0]] * next(lengths) if is_visual else at
    data = {k: v[:, order] for k, v in prompt.inputs.items() if v.ndim == 2 and v.shape == ids.shape}
    return replace(prompt, inputs=data, visuals=[]).to(loaded.device)
