"""Fixed rate: so many frames of each second, however long the video is.

Wang et al., "Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution", 2024.
https://arxiv.org/abs/2409.12191

Qwen2-VL samples two frames a second, and fewer where the video is too long for that; then the times that a model reads
mean the same in every video. High rates with ``persecond`` behind them are "Improving LLM Video Understanding with 16
Frames Per Second" (arXiv 2503.13956): ``fps(rate=16) + persecond``.
"""

from __future__ import annotations

import torch

from ..method import Range, method, option
from ..parts.spaced import apart
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution",
    url="https://arxiv.org/abs/2409.12191",
    systems=("S039",),
    needs=("times",),
    cost="none",
)
class FPS:
    """Frames at a fixed rate."""

    rate: float = option(2.0, Range(0, open_low=True), "frames a second")
    most: int = option(768, Range(1, kind=int), "at most so many, evenly thinned out")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.times (B, T), ascending -> selection: the first frame of each stretch of 1 / rate seconds."""
        times = tokens.need("times").double()
        kept = torch.zeros(times.shape, dtype=torch.bool, device=times.device)
        for b, row in enumerate(times):
            stretch = ((row - row[:1]) * self.rate + 1e-4).floor()  # a time may be rounded just below its stretch
            first = torch.ones_like(kept[b])
            first[1:] = stretch[1:] != stretch[:-1]
            found = first.nonzero()[:, 0]
            kept[b, found[apart(len(found), min(self.most, len(found)), found.device)]] = True
        return Reduction.from_mask(kept)
