"""CDPruner: keep visual tokens that are relevant to the instruction and unlike each other, as one DPP.

Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
NeurIPS 2025.
https://arxiv.org/abs/2506.10967

The kernel of a determinantal point process is the cosine similarity of the tokens the LLM reads, scaled on both sides
by each token's relevance to the instruction. The subset with the largest determinant is found greedily.

As in the authors' code relevance in a dual encoder's space is the negated cosine, rescaled to (0, 1]; without a dual
encoder the LLM's own embeddings are compared, not negated. Departures: that code takes smallest and largest relevance
from the whole batch (``variant="code"``), and fails once the budget exceeds the rank of the features, where here the
most relevant of the others fill up.
"""

from __future__ import annotations

from torch import Tensor

from ..method import Keep, OneOf, method, option
from ..parts.budget import budget
from ..parts.determinant import conditional_kernel, greedy_determinant
from ..parts.signals import relevance
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
    url="https://arxiv.org/abs/2506.10967",
    needs=("image_embeds|features", "text_embeds|text"),
    cost="one n x n similarity, m steps of m x n",
    vectors=("cdpruner",),
)
class CDPruner:
    """Greedy MAP of a determinantal point process conditioned on the text."""

    keep: float | int = option(0.1, Keep(), "share (float) or number (int) of visual tokens to keep")
    variant: str = option("row", OneOf(("row", "code")), "whose relevances are rescaled together: a row's or a batch's")

    def quality(self, tokens: Tokens) -> Tensor:
        """tokens.image_embeds (B, n, C) and text_embeds (B, M, C), or x and text -> (B, n) in (0, 1]."""
        r = relevance(tokens)
        low, high = r.amin(-1, keepdim=True), r.amax(-1, keepdim=True)
        if self.variant == "code":
            low, high = low.amin(), high.amax()
        return (r - low + 1e-6) / (high - low).clamp(min=1e-6)

    def kernel(self, tokens: Tokens) -> Tensor:
        """tokens.x (B, n, D) and as :meth:`quality` -> (B, n, n)."""
        return conditional_kernel(tokens.x, self.quality(tokens))

    def pick(self, tokens: Tokens) -> Tensor:
        """As :meth:`kernel` -> (B, m), in the order picked."""
        return greedy_determinant(self.kernel(tokens), budget(self.keep, tokens.n))

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`kernel` -> selection of m."""
        return Reduction.take(self.pick(tokens), tokens.n)
