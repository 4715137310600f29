"""TDC (frames): scenes by likeness of neighbouring frames, and a key frame for every few frames of a scene.

Hao et al., "Multimodal Long Video Modeling Based on Temporal Dynamic Context", 2025.
https://arxiv.org/abs/2504.10443

The least alike neighbours are cut; inside a scene the first of every few frames is a key frame, that the model reads
whole. Long scenes get several, so slow changes show too. What stands for the other frames, context tokens, is a method
of its own, ``tdc``.

Departures: frames are compared by the features of the model itself instead of DINO's. The number of frames is met:
where there are more key frames the ones most unlike the frame before them stay, where there are fewer the other frames
join by the same measure.
"""

from __future__ import annotations

import torch

from ..method import Range, method, option
from ..parts.frame_change import feature_change
from ..parts.select import top
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Multimodal Long Video Modeling Based on Temporal Dynamic Context",
    url="https://arxiv.org/abs/2504.10443",
    systems=("S040",),
    needs=("image_embeds|features",),
    cost="two sorts of the frames",
)
class TDCFrames:
    """Key frames of scenes."""

    frames: int = option(16, Range(1, kind=int), "how many frames to choose, at most those there are")
    cuts: int = option(24, Range(0, kind=int), "how many times a video is cut, at most between all frames")
    chunk: int = option(8, Range(1, kind=int), "how many frames of a scene a key frame stands for, itself included")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.image_embeds (B, T, C), or x -> selection of frames."""
        change = feature_change(tokens.need("image_embeds", "x"))
        rank = change.argsort(stable=True, dim=-1, descending=True).argsort(dim=-1)
        opens = rank <= self.cuts  # the first frame is no cut, and always opens
        at = torch.arange(tokens.n, device=change.device).expand_as(rank)
        key = (at - torch.where(opens, at, 0).cummax(-1).values) % self.chunk == 0
        score = change + 4.0 * key  # a change is at most 2
        return Reduction.take(top(score, min(self.frames, tokens.n)), tokens.n)
