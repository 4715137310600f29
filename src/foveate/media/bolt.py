"""BOLT: choose frames by inverse transform sampling, the more of them the better they fit the question.

Liu et al., "BOLT: Boost Large Vision-Language Model Without Training for Long-form Video Understanding", CVPR 2025.
https://arxiv.org/abs/2503.21483

Similarity of frame and question, scaled to 0..1 and sharpened by a power, is read as a distribution over the frames;
evenly spaced points of its cumulative sum name the frames. Relevant stretches are sampled densely and the rest of the
video still shows, where taking the best frames alone would lose it.

Departures: a frame that is named several times comes once, so there may be fewer than asked for; a video all of whose
frames fit equally well is sampled evenly (the authors' code divides 0 by 0 and names the first frame each time); where
rounding keeps the sum below 1 its last point falls on the last frame, not behind it. ``variant="code"`` has all of it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..method import OneOf, Range, method, option
from ..parts.signals import likeness
from ..parts.spaced import line
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="BOLT: Boost Large Vision-Language Model Without Training for Long-form Video Understanding",
    url="https://arxiv.org/abs/2503.21483",
    needs=("image_embeds|features", "text_embeds|text"),
    cost="one product of frames and text",
    vectors=("bolt",),
)
class BOLT:
    """Frames by inverse transform sampling."""

    frames: int = option(16, Range(1, kind=int), "how many frames to choose, at most those there are")
    power: float = option(1.0, Range(0), "sharpens the scores: 0 samples evenly, large values take the best frames")
    variant: str = option("paper", OneOf(("paper", "code")), "what equal scores and rounding do; see above")

    def pick(self, score: Tensor, count: int) -> Tensor:
        """score (B, T) of the frames -> (B, count) ascending frames, some of them several times."""
        score = score.float()
        score = score - score.amin(-1, keepdim=True)
        peak = score.amax(-1, keepdim=True)
        score = torch.where(peak > 0, score / peak, 0.0 if self.variant == "code" else 1.0)
        below = torch.stack([self._below(row) for row in score])
        points = line(1 / count, 1 - 1 / count, count, score.device)
        found = torch.searchsorted(below.double(), points.expand(len(below), -1).contiguous())
        return found if self.variant == "code" else found.clamp(max=score.shape[1] - 1)

    def _below(self, score: Tensor) -> Tensor:
        """score (T,) from 0 to 1 -> (T,) cumulative share of its power; infinity where all are 0."""
        if self.variant == "paper":
            score = score**self.power
            return (score / score.sum()).cumsum(-1)
        if not bool(score.any()):
            return torch.full_like(score, torch.inf)
        given = score.cpu().numpy()
        given = given if self.power == 1 else given**self.power
        return torch.from_numpy(np.cumsum(given / given.sum())).to(score)  # each sum rounded before the next is made

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.image_embeds (B, T, C) and text_embeds (B, M, C), or x and text -> selection of frames."""
        picked = self.pick(likeness(tokens), min(self.frames, tokens.n))
        mask = torch.zeros(tokens.x.shape[:2], dtype=torch.bool, device=picked.device)
        return Reduction.from_mask(mask.scatter(1, picked.clamp(max=tokens.n - 1), True))
