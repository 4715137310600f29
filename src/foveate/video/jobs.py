"""Cutting a request for frames into pieces that can be decoded apart: each starts at a keyframe."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from .index import Index


@dataclass(frozen=True)
class Job:
    """Frames that one decoder fetches in one go.

    Attributes:
        numbers: frame numbers, ascending.
        stamps: their time stamps in ticks.
        seek: where to seek to so that the keyframe before them is read, in ticks; None: the start of the file.
        span: how many frames lie between the keyframe and the last of them, what has to be decoded at most.
    """

    numbers: tuple[int, ...]
    stamps: tuple[int, ...]
    seek: int | None
    span: int


def cut(index: Index, numbers: Sequence[int]) -> list[Job]:
    """numbers: distinct frame numbers, ascending -> jobs in the same order, one for each keyframe that is needed.

    QuickVideo (arXiv 2505.16175) decodes keyframe-aligned intervals in parallel; this is the same cut, made so that
    frames which nobody asked for are decoded only where others need them.
    """
    by_key: dict[int, list[int]] = {}
    for number in numbers:
        at = max(0, bisect_right(index.key_pts, index.pts[number]) - 1)
        by_key.setdefault(at, []).append(number)
    return [_job(index, at, found) for at, found in by_key.items()]


def _job(index: Index, at: int, numbers: list[int]) -> Job:
    stamps = tuple(index.pts[n] for n in numbers)
    key = index.key_pts[at]
    blind = index.counted or key > stamps[0]
    first = 0 if blind else bisect_left(index.pts, key)
    seek = None if blind else index.key_seek[at]
    return Job(tuple(numbers), stamps, seek, numbers[-1] - first + 1)
