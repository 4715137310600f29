"""EVS: drop the video tokens that have hardly changed since the frame before.

Bagrov et al., "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference", 2025.
https://arxiv.org/abs/2510.14624

A token is scored by one minus its cosine with the token in the same place of the previous frame, and the most changed
ones of the whole clip stay; the first frame comes before all others. Positions are not counted anew.

The paper compares colours; the code published by the authors (in vLLM) compares embeddings, as here. Where the budget
is less than one frame, the first frame is thinned evenly; the code never goes below it (``whole=True``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, method, option
from ..parts.budget import budget
from ..parts.film import Film
from ..parts.select import top
from ..parts.twins import scattered
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference",
    url="https://arxiv.org/abs/2510.14624",
    needs=("grid", "features"),
    cost="one product of each token with another, a sort of n",
    vectors=("evs",),
)
class EVS:
    """Selection by change."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of the clip's tokens to keep")
    whole: bool = option(False, OneOf((False, True)), "keep the first frame whole, even above that number")

    def score(self, tokens: Tokens, film: Film) -> Tensor:
        """tokens.x (B, n, D) -> (B, n): change, from 0 to 2; above that in the first frame."""
        change = 1 - film.likeness(tokens.x)  # a place that was empty has changed as much as can be
        return torch.where(film.frame == 0, 3 + scattered(film.place), change)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), grid (B, n, 3) -> selection of m."""
        film, m = Film(tokens), budget(self.keep, tokens.n)
        score = self.score(tokens, film)
        if not self.whole:
            return Reduction.take(top(score, m), tokens.n)
        rank = score.argsort(stable=True, dim=-1, descending=True).argsort(-1)
        first = (film.frame == 0).sum(-1, keepdim=True)
        return Reduction.from_mask(rank < first.clamp(min=m))
