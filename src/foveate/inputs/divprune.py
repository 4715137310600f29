"""DivPrune: keep the subset of visual tokens whose closest pair is as far apart as possible.

Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", CVPR 2025.
https://arxiv.org/abs/2503.02175

The max-min diversity problem is NP-hard; the paper solves it greedily and so do we: start from the token whose nearest
neighbour is farthest, then keep adding the token farthest from everything kept so far. It needs no attention and no
text, so it runs before the first LLM layer.

Departure from the authors' code: a token is never picked twice (with identical tokens theirs repeats one).
"""

from __future__ import annotations

from torch import Tensor

from ..method import Keep, method, option
from ..parts.budget import budget
from ..parts.select import max_min
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models",
    url="https://arxiv.org/abs/2503.02175",
    systems=("S015",),
    cost="one n x n similarity, m steps of n",
    vectors=("divprune",),
)
class DivPrune:
    """Max-min diversity selection."""

    keep: float | int = option(0.1, Keep(), "share (float) or number (int) of visual tokens to keep")

    def pick(self, tokens: Tokens) -> Tensor:
        """tokens.x (B, n, D) -> (B, m), in the order picked."""
        return max_min(tokens.x, budget(self.keep, tokens.n))

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D) -> selection of m."""
        return Reduction.take(self.pick(tokens), tokens.n)
