"""What training-free video models make of the encoded frames: fixed forms of pooling over places and time."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import (
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    avg_pool1d,
    avg_pool2d,
    max_pool1d,
    max_pool2d,
)


def slow_frames(frames: int, count: int) -> list[int]:
    """The first frame of each of ``count`` equal parts."""
    first: list[int] = torch.linspace(0, frames, count + 1)[:-1].long().tolist()
    return first


def aggregate(x: Tensor, mode: str) -> Tensor:
    """x (T, N, D), frames of N tokens -> (m, D).

    "concat": all tokens. "spatial_1d_max_pool", "spatial_1d_avg_pool": pairs along the list of a frame.
    "spatial_2d_max_pool", "spatial_2d_avg_pool": 2 x 2 cells of the square. "temporal_global_pool": the mean frame.
    "spatial_temporal_pool": 16 x 12 x 12 means over time, rows and columns.
    """
    if mode == "concat":
        return x.flatten(0, 1)
    if mode == "temporal_global_pool":
        return x.mean(0)
    if mode in ("spatial_1d_max_pool", "spatial_1d_avg_pool"):
        pool = max_pool1d if "max" in mode else avg_pool1d
        pairs: Tensor = pool(x.mT, 2, 2)
        return pairs.mT.flatten(0, 1)
    if mode in ("spatial_2d_max_pool", "spatial_2d_avg_pool"):
        pool = max_pool2d if "max" in mode else avg_pool2d
        cells: Tensor = pool(_square(x), 2, 2)
        return cells.flatten(2).mT.flatten(0, 1)
    if mode == "spatial_temporal_pool":
        blocks: Tensor = adaptive_avg_pool3d(_square(x).transpose(0, 1), (16, 12, 12))
        return blocks.flatten(1).mT
    raise ValueError(f"no form of pooling is called {mode!r}")


def shrunk(x: Tensor, high: int, wide: int) -> Tensor:
    """Square frames x (T, N, D) averaged down to high x wide cells each -> (T * high * wide, D)."""
    cells: Tensor = adaptive_avg_pool2d(_square(x), (high, wide))
    return cells.flatten(2).mT.flatten(0, 1)


def _square(x: Tensor) -> Tensor:
    """x (T, s * s, D) -> (T, D, s, s)."""
    side = math.isqrt(x.shape[1])
    return x.mT.reshape(len(x), -1, side, side)
