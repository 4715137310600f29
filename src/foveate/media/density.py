"""Density cubes: cut the video where its features change, so that busy stretches get more frames.

Qi et al., "Quicksviewer: An LMM for Efficient Video Understanding via Reinforced Compression of Video Cubes", 2025.
https://arxiv.org/abs/2504.15270

Differences of neighbouring frames, smoothed by a momentum, say where something new begins; the strongest ones open a
cube, the first frame always does, and the frame that opens a cube stands for it in the thumbnail that the model reads.

Departures: the paper turns differences into cuts by a small network, learnt through Gumbel noise, that it shares with
the model (:mod:`foveate.parts.cubes` runs it where its weights are given); here the length of the difference decides.
What the paper keeps of each cube besides that frame, 64 tokens of a learnt resampler, is not part of it.
"""

from __future__ import annotations

from ..method import Range, method, option
from ..parts.frame_change import momentum_change
from ..parts.select import top
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Quicksviewer: An LMM for Efficient Video Understanding via Reinforced Compression of Video Cubes",
    url="https://arxiv.org/abs/2504.15270",
    systems=("S029",),
    needs=("image_embeds|features",),
    training="the network that cuts (cutting by feature change runs without)",
    cost="one pass over the frames",
)
class Density:
    """Frames that open a cube."""

    frames: int = option(16, Range(1, kind=int), "how many cubes, one frame each, at most as many as there are frames")
    momentum: float = option(0.8, Range(0, 1), "share of the newest difference in the smoothed one")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.image_embeds (B, T, C), or x -> selection of frames."""
        change = momentum_change(tokens.need("image_embeds", "x"), self.momentum).norm(dim=-1)
        opens = change.new_full((len(change), tokens.n), float("inf"))
        opens[:, 1:] = change
        return Reduction.take(top(opens, min(self.frames, tokens.n)), tokens.n)
