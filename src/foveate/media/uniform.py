"""Uniform: the middle frame of equally long parts.

Wang et al., "Temporal Segment Networks: Towards Good Practices for Deep Action Recognition", ECCV 2016.
https://arxiv.org/abs/1608.00859

The video is cut into as many equal parts as frames are wanted, and each part shows its middle: what any selection has
to beat. (The paper draws a random frame of each part in training, and takes fixed ones in testing.)
"""

from __future__ import annotations

import torch

from ..method import Range, method, option
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Temporal Segment Networks: Towards Good Practices for Deep Action Recognition",
    url="https://arxiv.org/abs/1608.00859",
    cost="none",
)
class Uniform:
    """Middles of equal parts."""

    frames: int = option(16, Range(1, kind=int), "how many frames to choose, at most those there are")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, T, D) -> selection of frames."""
        m = min(self.frames, tokens.n)
        at = (2 * torch.arange(m, device=tokens.x.device) + 1) * tokens.n // (2 * max(1, m))
        return Reduction.take(at.expand(len(tokens.x), -1), tokens.n)
