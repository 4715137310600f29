"""What an image or video is as a stretch of a prompt: which tokens may go, where they stand, how far it reaches.

All of this follows from sizes alone, so it is known before anything is encoded. vLLM is not imported here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..sites import geometry

#: Kinds of tokens of a stretch: visual ones that may go, those that only end a line, and words between frames.
VISUAL, END, WORD = 0, 1, 2


@dataclass(frozen=True)
class Layout:
    """The tokens of one image or video in the order of the prompt, before any is dropped.

    Attributes:
        frames, rows, cols: the grid of visual tokens.
        side: of the square thumbnail that comes before the grid, or 0.
        ends: "" where no token ends a line, "line" after every row, "last" one after everything.
        pace: how many temporal positions one frame lies after the other (M-RoPE).
        words: how many words stand before each frame, () where nothing does; ``after``: how many behind each.
        flat: positions count token by token (plain RoPE), not by the grid (M-RoPE).
    """

    frames: int
    rows: int
    cols: int
    side: int = 0
    ends: str = ""
    pace: float = 1.0
    words: tuple[int, ...] = ()
    after: int = 0
    flat: bool = False

    @property
    def free(self) -> int:
        """Visual tokens that may go."""
        return self.side**2 + self.frames * self.rows * self.cols

    @property
    def fixed(self) -> int:
        """Tokens that always stay: ends of lines, and words."""
        lines = {"": 0, "line": self.frames * self.rows, "last": 1}[self.ends]
        return lines + sum(self.words) + self.after * len(self.words)

    @property
    def encoded(self) -> int:
        """Tokens that the vision encoder gives: the visual ones and the ends of lines."""
        return self.free + self.fixed - sum(self.words) - self.after * len(self.words)

    @property
    def advance(self) -> int:
        """How many positions further the text goes on."""
        if self.flat:
            return self.free + self.fixed
        step = max(self.rows, self.cols)
        if not self.words:
            return step
        return sum(self.words) + len(self.words) * (self.after + step)

    @property
    def reach(self) -> int:
        """One more than the highest position: above ``advance`` where time goes on longer than the grid is wide."""
        return max(self.advance, int(places(self).max()) + 1)


@functools.lru_cache(maxsize=256)
def kinds(layout: Layout) -> Tensor:
    """(N,) int64: the kind of each token, in the order of the prompt."""
    parts = [torch.full((layout.side**2,), VISUAL)]
    frame = torch.full((layout.rows, layout.cols), VISUAL)
    if layout.ends == "line":
        frame = pad(frame, (0, 1), value=END)
    for i in range(layout.frames):
        if layout.words:
            parts.append(torch.full((layout.words[i],), WORD))
        parts.append(frame.flatten())
        if layout.words:
            parts.append(torch.full((layout.after,), WORD))
    if layout.ends == "last":
        parts.append(torch.tensor([END]))
    return torch.cat(parts)


@functools.lru_cache(maxsize=256)
def places(layout: Layout) -> Tensor:
    """(N, 3) int64: positions (time, row, column) of all tokens, counted from where the stretch begins.

    As transformers counts them: a frame or image takes up as many positions as its longer side, whatever its time.
    """
    if layout.flat:
        return torch.arange(layout.free + layout.fixed)[:, None].expand(-1, 3)
    cells = geometry.square(1, layout.rows * layout.cols, torch.device("cpu"), layout.rows).T
    if not layout.words:
        time = (torch.arange(layout.frames) * layout.pace).long()
        return torch.cat([cells + torch.tensor([int(t), 0, 0]) for t in time])
    parts, at = [], 0
    for before in layout.words:
        parts.append(torch.arange(at, at + before)[:, None].expand(-1, 3))
        at += before
        parts.append(cells + at)
        at += max(layout.rows, layout.cols)
        parts.append(torch.arange(at, at + layout.after)[:, None].expand(-1, 3))
        at += layout.after
    return torch.cat(parts)


@functools.lru_cache(maxsize=256)
def grid(layout: Layout) -> Tensor:
    """(free, 3) int64: the cell (view, row, column) of each visual token, as the signal ``grid`` tells it."""
    cpu = torch.device("cpu")
    if not layout.side:
        return geometry.square(layout.frames, layout.rows * layout.cols, cpu, layout.rows).T
    of = kinds(layout)
    crop = (torch.arange(len(of)) >= layout.side**2).long()
    return geometry.stitched(crop, of == END, layout.side).T[of == VISUAL]


def stays(layout: Layout, keep: Tensor) -> Tensor:
    """Which tokens of the stretch stay. keep (m,) indices among the visual ones -> (m + fixed,) int64, ascending."""
    of = kinds(layout).to(keep.device)
    left = of != VISUAL
    left[(of == VISUAL).nonzero()[:, 0][keep]] = True
    return left.nonzero()[:, 0]


def shares(layout: Layout, kept: int) -> list[int]:
    """``kept`` tokens spread over the frames as evenly as can be, the first ones getting more: one number a frame.

    It only says how a prompt is written down; which frames really keep how many is known after encoding.
    """
    each, more = divmod(kept, layout.frames)
    return [each + (i < more) for i in range(layout.frames)]


# --- layouts of the families ------------------------------------------------------------------------------------------


def patches(thw: Sequence[int], merge: int, pace: float = 1.0) -> Layout:
    """Qwen's: an image or video of ``thw`` frames, rows and columns of patches, of which merge x merge make a token."""
    t, h, w = (int(v) for v in thw)
    return Layout(t, h // merge, w // merge, pace=pace)


def pace(seconds: float, rate: float) -> float:
    """Temporal positions between frames that lie ``seconds`` apart, in float32 as models count. rate: a second's."""
    return float(torch.tensor(float(seconds), dtype=torch.float32) * rate)


def stamped(thw: Sequence[int], merge: int, words: Sequence[int], after: int) -> Layout:
    """Qwen3-VL's video: every frame stands between words. words: how many come before each, after: behind each."""
    t, h, w = (int(v) for v in thw)
    return Layout(t, h // merge, w // merge, words=tuple(words), after=after)


def filmed(frames: int, side: int) -> Layout:
    """LLaVA-OneVision's video: of each frame side x side features, pooled 2 x 2, and one token at the end."""
    small = math.ceil(side / 2)
    return Layout(frames, small, small, ends="last", flat=True)


def stitched(size: Sequence[int], best: Sequence[int], tile: int, side: int, crops: int, most: int = 9) -> Layout:
    """LLaVA-OneVision's image: a thumbnail, then the crops put together, without their padding.

    size: the image's height and width in pixels; best: the resolution it was cut at; tile: pixels on the side of a
    crop, which becomes side x side tokens; crops: how many there are, the thumbnail included; most: above so many crops
    the grid is scaled down.
    """
    if crops == 1:
        return Layout(1, side, side, ends="last", flat=True)
    rows, cols = best[0] // tile * side, best[1] // tile * side
    height, width = (float(v) for v in size)
    if width / height > cols / rows:
        rows -= (rows - int(round(height * (cols / width), 7))) // 2 * 2
    else:
        cols -= (cols - int(round(width * (rows / height), 7))) // 2 * 2
    ratio = math.sqrt(rows * cols / (most * side**2))
    if ratio > 1.1:
        rows, cols = int(rows // ratio), int(cols // ratio)
    return Layout(1, rows, cols, side=side, ends="line", flat=True)
