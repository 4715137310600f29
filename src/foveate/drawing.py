"""What became of an answer's visual tokens, stage after stage, and the picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .errors import InputError
from .prompt import Prompt
from .report import Kept


def slots(prompt: Prompt, decisions: Sequence[Kept], stages: Sequence[str]) -> Tensor:
    """(B, n) int64: the position whose token each position of the prompt ended in; its own if it stayed, -1 if dropped.

    Decisions are composed in the order they were made: a token merged by one stage goes where its slot goes later.
    """
    b, n = prompt.inputs["input_ids"].shape
    ended = torch.arange(n).repeat(b, 1)
    for k in decisions:
        if k.stage not in stages or k.where is None:
            continue
        r, where = k.reduction.to("cpu"), k.where.cpu()
        spare = torch.cat([torch.where(r.valid[0], where[r.keep[0].clamp(min=0)], -1), torch.tensor([-1])])
        moved = torch.arange(n + 1)  # the last entry stands for "dropped before"
        moved[n] = -1
        moved[where] = spare[r.assign[0]]
        stays = where[r.keep[0][r.valid[0]]]
        moved[stays] = stays  # also where a map that mixes gives most of this token to another slot
        ended[k.row] = moved[torch.where(ended[k.row] >= 0, ended[k.row], n)]
    return ended


def draw(prompt: Prompt, decisions: Sequence[Kept], stages: Sequence[str], title: str, path: Path) -> Path:
    """Write one picture with all frames of a prompt's images and videos; merged cells are tinted alike.

    Raises:
        InputError: no image or video, or none whose tokens form a grid.
        MediaError: the file cannot be written, or its suffix names no picture format.
    """
    from .show import save_sheet

    ended = slots(prompt, decisions, stages)
    frames, grids, groups, captions = [], [], [], []
    for v in prompt.visuals:
        if v.grid is None:
            continue
        where = v.where.cpu()
        frames += v.pictures
        grids += list((ended[v.row, where] == where).view(v.grid))
        groups += list(ended[v.row, where].view(v.grid))
        captions += [f"{v.item.name} {t:.1f} s" for t in v.times] or [v.item.name]
    if not frames:
        raise InputError("nothing to draw: the prompt has no image or video whose tokens form a grid")
    merged = any(bool(((g >= 0) & ~kept).any()) for g, kept in zip(groups, grids))
    return save_sheet(path, frames, grids, title, captions, groups=groups if merged else None)
