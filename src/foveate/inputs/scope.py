"""SCOPE: keep tokens that are salient and that cover what no kept token covers yet.

Deng et al., "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodel LLMs", NeurIPS 2025.
https://arxiv.org/abs/2510.24214

A set of tokens covers a token as well as its most similar member is like it (cosine). One after another, the token is
kept whose gain in coverage, summed over all tokens, times its class-token attention to the power ``alpha`` is highest.
Greedy picks of such a submodular sum are evaluated lazily here, with the same result.

Departures: an encoder without a class token gives the attention each token receives; a token that nothing is gained
from is kept by its saliency (the authors' code takes the leftmost).
"""

from __future__ import annotations

from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.coverage import cover
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodel LLMs",
    url="https://arxiv.org/abs/2510.24214",
    needs=("cls_attention|received_attention",),
    cost="one n x n similarity, about two evaluations of 32 n for each pick",
)
class SCOPE:
    """Greedy coverage weighted by saliency."""

    keep: float | int = option(0.1, Keep(), "share (float) or number (int) of visual tokens to keep")
    alpha: float = option(1.0, Range(0), "power of the saliency; 0 is coverage alone")
    combine: str = option("times", OneOf(("times", "plus")), "how gain and saliency are joined")

    def pick(self, tokens: Tokens) -> Tensor:
        """tokens.x (B, n, D), cls_attention (B, H, n) or received_attention (B, n) -> (B, m), in the order picked."""
        seen = tokens.need("cls_attention", "received_attention").float()
        weight = (seen.sum(1) if seen.ndim == 3 else seen) ** self.alpha
        return cover(tokens.x, weight, budget(self.keep, tokens.n), "plus" if self.combine == "plus" else "times")

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`pick` -> selection of m."""
        return Reduction.take(self.pick(tokens), tokens.n)
