"""Which positions of a prompt form one visual item, and running a plan's methods on all items of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..reduction import Reduction
from ..tokens import Tokens


@dataclass(frozen=True)
class Item:
    """Visual tokens that a method sees together: ``where`` (n,) ascending positions in row ``row``.

    ``index`` counts a row's items; ``full`` is how many tokens it held before its stage, when that is not n.
    """

    row: int
    where: Tensor
    index: int
    full: int = 0


def find(visual: Tensor, scope: str, video: Tensor | None = None) -> list[Item]:
    """visual (B, n) bool -> items. scope "run": each unbroken run of placeholders; "row": all of a row together.

    ``video`` (B, n) bool: placeholders of video frames, which belong together however they are interleaved with text.
    """
    items: list[Item] = []
    for b, row in enumerate(visual):
        at = row.nonzero()[:, 0]
        if not len(at):
            continue
        if scope == "row":
            groups = [at]
        else:
            breaks = (at[1:] != at[:-1] + 1).nonzero()[:, 0] + 1
            groups = list(at.tensor_split(breaks.cpu()))
            if video is not None:
                moving = [g for g in groups if bool(video[b, g[0]])]
                groups = [g for g in groups if not bool(video[b, g[0]])]
                if moving:
                    groups.append(torch.cat(moving))
        groups.sort(key=lambda g: int(g[0]))
        items += [Item(b, g, i) for i, g in enumerate(groups)]
    return items


def run(
    items: list[Item],
    signals: Callable[[list[Item]], Tokens],
    decide: Callable[[Tokens], Reduction],
    alone: bool = False,
) -> list[Reduction]:
    """One map of one row for each item. Items of equal lengths are decided as one batch unless ``alone``."""
    out: dict[int, Reduction] = {}
    keys = [(len(it.where), it.full, i if alone else 0) for i, it in enumerate(items)]
    for key in sorted(set(keys)):
        which = [i for i, k in enumerate(keys) if k == key]
        r = decide(signals([items[i] for i in which]))
        out.update({i: r.row(j) for j, i in enumerate(which)})
    return [out[i] for i in range(len(items))]
