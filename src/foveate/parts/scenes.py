"""Cutting a clip into segments: from the places that stay the same, from clusters of frames, or at its breaks.

A segmentation is one number for each frame, (F,) int64, that starts at 0 and rises by 1 with every segment.
"""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .film import segments


def best_windows(same: Tensor, longest: int) -> Tensor:
    """The windows that save most, by dynamic programming. same (F, P) bool: a place is as it was one frame earlier.

    A window of w frames saves w - 1 for each place that stays the same all through it, a frame alone saves nothing; at
    most ``longest`` frames make a window, and of equally good choices the shorter last window is taken -> (F,).
    """
    frames = len(same)
    run = torch.zeros_like(same, dtype=torch.long)
    for f in range(1, frames):  # frames back for which each place has been the same
        run[f] = (run[f - 1] + 1) * same[f]
    at = torch.arange(frames, device=same.device)
    lasting = (at[:, None] * (frames + 1) + run).flatten().bincount(minlength=frames * (frames + 1))
    lasting = lasting.view(frames, frames + 1).flip(1).cumsum(1).flip(1)  # (F, w - 1): places that last so long
    saved = lasting * torch.arange(frames + 1, device=same.device)
    best, start = torch.zeros(frames + 1, dtype=torch.long, device=same.device), list(range(frames))
    for f in range(frames):
        best[f + 1] = best[f]
        most = min(f, longest - 1)
        if most > 0:
            value = best[:f].flip(0)[:most] + saved[f, 1 : most + 1]
            length = int(value.argmax())
            if value[length] > best[f]:
                best[f + 1], start[f] = value[length], f - 1 - length
    first = torch.zeros(frames, dtype=torch.long)
    f = frames - 1
    while f >= 0:
        first[start[f]] = 1
        f = start[f] - 1
    return (first.cumsum(0) - 1).to(same.device)


def lasting(same: Tensor, segment: Tensor) -> Tensor:
    """Which tokens stand at a place that is the same all through their segment, of at least two frames -> (F, P)."""
    count = int(segment[-1]) + 1
    inner = torch.zeros_like(segment, dtype=torch.bool)
    inner[1:] = segment[1:] == segment[:-1]
    pairs = segment.new_zeros(count, same.shape[1]).index_add(0, segment, (same & inner[:, None]).long())
    steps = segment.bincount(minlength=count) - 1
    return ((pairs == steps[:, None]) & (steps > 0)[:, None])[segment]


def steady_runs(label: list[int]) -> Tensor:
    """Segments from clusters of frames, which may be scattered over the clip. label: the cluster of each frame.

    A cluster keeps its longest run of frames (all of them if several are as long, none if they are single frames). From
    left to right, frames that are left over join the longer of the two runs beside them, the left one of equals.
    """
    runs = [(k, len(list(g))) for k, g in groupby(label)]
    longest = {k: max(n for j, n in runs if j == k) for k, _ in runs}
    left_over = -1
    marks = [k if n == longest[k] > 1 else left_over for k, n in runs for _ in range(n)]
    pieces = [(k, len(list(g))) for k, g in groupby(marks)]
    done: list[tuple[int, int]] = []
    for i, (k, n) in enumerate(pieces):
        before = done[-1] if done else (left_over, 0)
        if k == left_over:
            after = pieces[i + 1] if i + 1 < len(pieces) else (left_over, 0)
            k = after[0] if after[1] > before[1] else before[0]
        if done and k == before[0]:
            done[-1] = (k, before[1] + n)
        else:
            done.append((k, n))
    return torch.arange(len(done)).repeat_interleave(torch.tensor([n for _, n in done]))


def breaks(frames: Tensor, least: int, tau: float) -> Tensor:
    """Cuts between neighbours that differ: ``least`` cuts at the smallest cosines, and all below tau.

    frames (F, D) -> (F,).
    """
    unit = normalize(frames.float(), dim=-1)
    like = (unit[1:] * unit[:-1]).sum(-1)
    cut = (like < tau).index_fill(0, like.argsort(stable=True)[:least], True)
    return segments(cut[None])[0]
