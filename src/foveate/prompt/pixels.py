"""Frames to the pixel tensors that the vision towers read, without torchvision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from torch import Tensor

from ..errors import InputError, MediaError

#: Longest side over shortest side that the Qwen family accepts.
MAX_ASPECT = 200


def normalised(
    image: Image, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], resample: int = Resampling.BICUBIC
) -> NDArray[np.float32]:
    """RGB image -> (3, height, width) float32, resized to ``size`` = (height, width), scaled to [0, 1], normalised."""
    resized = image.resize((size[1], size[0]), Resampling(resample))
    scaled = (np.asarray(resized).astype(np.float64) * (1 / 255)).astype(np.float32)  # as transformers rounds it
    out = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(out.transpose(2, 0, 1))


@dataclass(frozen=True)
class PatchRule:
    """How a Qwen tower cuts frames into patches, and how large frames may be: the limits of the authors' qwen-vl-utils.

    Attributes:
        patch, temporal, merge: patch side in pixels, frames in a patch, and the side of the merged patch group.
        low, high: fewest and most pixels, of one frame (``whole`` False) or of the whole video (``whole`` True).
        frame_cap: most LLM tokens one frame may become.
        token_cap: most LLM tokens the whole video may become (``whole`` False only).
    """

    patch: int = 14
    temporal: int = 2
    merge: int = 2
    low: int = 128 * 28 * 28
    high: int = 768 * 28 * 28
    whole: bool = False
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    frame_cap: int = 768
    token_cap: int = 115_200

    @property
    def factor(self) -> int:
        """Pixels on the side of one LLM token."""
        return self.patch * self.merge

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """(height, width) that ``frames`` frames of that size are resized to: multiples of :attr:`factor`."""
        cell, cap = self.factor**2, self.frame_cap * self.factor**2
        floor = int(self.low * 1.05)
        if not self.whole:
            high = max(min(self.high, cap, self.token_cap * cell * self.temporal // frames), floor)
            return _fit(height, width, self.factor, self.low, high)
        if height < self.factor or width < self.factor:
            scale = max(self.factor / height, self.factor / width)
            height, width = int(height * scale), int(width * scale)
        budget = frames * max(min(cap, self.high // frames), floor)
        rounded = max(round(frames / self.temporal), 1) * self.temporal
        return _fit(height, width, self.factor, self.low, budget, frames, rounded)

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(t, h, w) in patches of ``frames`` frames of that size."""
        tall, wide = self.size(frames, height, width)
        return -(-frames // self.temporal), tall // self.patch, wide // self.patch


def _fit(
    height: int, width: int, factor: int, low: float, high: float, frames: int = 1, rounded: int = 1
) -> tuple[int, int]:
    """Multiples of ``factor`` with ``low <= rounded * h * w <= high``, the aspect ratio kept as well as can be."""
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if rounded * h * w > high:
        beta = math.sqrt(frames * height * width / high)
        h, w = (max(factor, math.floor(side / beta / factor) * factor) for side in (height, width))
    elif rounded * h * w < low:
        beta = math.sqrt(low / (frames * height * width))
        h, w = (math.ceil(side * beta / factor) * factor for side in (height, width))
    return h, w


def patchify(video: Tensor, rule: PatchRule) -> tuple[Tensor, tuple[int, int, int]]:
    """video (T, 3, H, W) -> patches (t * h * w, 3 * temporal * patch * patch) and the grid (t, h, w) in patches.

    Patches are laid out merge group by merge group, as the Qwen towers expect; T is filled up to a multiple of
    ``rule.temporal`` by repeating the last frame.
    """
    if fill := -len(video) % rule.temporal:
        video = torch.cat([video, video[-1:].expand(fill, -1, -1, -1)])
    frames, channels, height, width = video.shape
    t, h, w = frames // rule.temporal, height // rule.patch, width // rule.patch
    m, p = rule.merge, rule.patch
    cut = video.view(t, rule.temporal, channels, h // m, m, p, w // m, m, p)
    cut = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # (t, h', w', merge, merge, 3, temporal, patch, patch)
    return cut.reshape(t * h * w, -1), (t, h, w)


def video_patches(
    frames: Sequence[Image], rule: PatchRule, of: int | None = None
) -> tuple[Tensor, tuple[int, int, int]]:
    """RGB frames of one size -> (patches, grid in patches) as in :func:`patchify`.

    of: frames of the whole video, where these are only a part of it; its length decides how large frames may be.
    """
    same_size(frames)
    check_aspect(frames[0].size, "a video")
    size = rule.size(len(frames) if of is None else of, frames[0].height, frames[0].width)
    return patchify(torch.from_numpy(np.stack([normalised(f, size, rule.mean, rule.std) for f in frames])), rule)


def check_aspect(shape: tuple[int, int], name: str) -> None:
    """Raises MediaError for a picture of (width, height) so narrow that the Qwen towers refuse it."""
    if max(shape) > MAX_ASPECT * min(shape):
        size = f"{shape[0]}x{shape[1]}"
        raise MediaError(f"{name}: is {size} pixels; no side may be over {MAX_ASPECT} times the other")


def same_size(frames: Sequence[Image]) -> None:
    """Raises InputError when the frames of one video differ in size."""
    sizes = sorted({f.size for f in frames})
    if len(sizes) > 1:
        raise InputError(f"the frames of one video must share one size; got {sizes[0]} and {sizes[1]}")
