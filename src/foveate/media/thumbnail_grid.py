"""Thumbnail grid: several frames on one picture, side by side.

Qu et al., "TS-LLaVA: Constructing Visual Tokens through Thumbnail-and-Sampling for Training-Free Video Large Language
Models", 2024.
https://arxiv.org/abs/2411.11066

Evenly spaced frames are shrunk and laid out row by row, in the order of time, on a picture of a frame's size: an image
model then sees change inside one image, at the price of one. The paper makes one such thumbnail and adds single tokens
of all frames (``tsllava`` does that behind the encoder); here the whole video is shown in thumbnails.
"""

from __future__ import annotations

import torch

from ..method import Range, method, option
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="TS-LLaVA: Constructing Visual Tokens through Thumbnail-and-Sampling for Training-Free Video Large Language "
    "Models",
    url="https://arxiv.org/abs/2411.11066",
    systems=("S028",),
    cost="none",
)
class ThumbnailGrid:
    """Frames side by side."""

    frames: int = option(24, Range(1, kind=int), "how many frames to show, at most those there are")
    cells: int = option(6, Range(1, kind=int), "how many of them share one picture")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, T, D) -> selection of frames; whoever shows them lays out ``cells`` on one picture."""
        m = min(self.frames, tokens.n)
        at = (2 * torch.arange(m, device=tokens.x.device) + 1) * tokens.n // (2 * max(1, m))
        return Reduction.take(at.expand(len(tokens.x), -1), tokens.n)
