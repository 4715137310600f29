"""ToDRE: keep a diverse subset of the visual tokens, found by greedy k-centre.

Li et al., "ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient Large Vision-Language Models",
2025.
https://arxiv.org/abs/2505.18757

After the encoder tokens are picked one by one, always the one farthest (cosine) from its nearest picked token, so every
dropped token has a kept one near it. The paper's revision takes the token with the largest sum of distances to all
picked ones instead: ``rule="max-sum"``. Its second stage, which drops all visual tokens late in the LLM, is
``todre_stop``.

No code was published. The first pick is ours: the token least like the mean of all.
"""

from __future__ import annotations

from torch import Tensor

from ..method import Keep, OneOf, method, option
from ..parts.budget import budget
from ..parts.diverse import oddest, spread
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient Large Vision-Language Models",
    url="https://arxiv.org/abs/2505.18757",
    systems=("S010",),
    cost="one n x n similarity, m steps of n",
)
class ToDRE:
    """Greedy k-centre or max-sum selection."""

    keep: float | int = option(0.1, Keep(), "share (float) or number (int) of visual tokens to keep")
    rule: str = option("k-centre", OneOf(("k-centre", "max-sum")), "what the next pick maximises")

    def pick(self, tokens: Tokens) -> Tensor:
        """tokens.x (B, n, D) -> (B, m), in the order picked."""
        m = budget(self.keep, tokens.n)
        return spread(tokens.x, m, oddest(tokens.x), total=self.rule == "max-sum")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D) -> selection of m."""
        return Reduction.take(self.pick(tokens), tokens.n)
