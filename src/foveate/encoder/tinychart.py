"""TinyChart: merge a fixed number of similar patches in every block, so that high-resolution charts stay affordable.

Zhang et al., "TinyChart: Efficient Chart Understanding with Visual Token Merging and Program-of-Thoughts Learning",
EMNLP 2024.
https://arxiv.org/abs/2404.16635

Bipartite soft matching as in ToMe, between attention and MLP of every block of the vision tower, with the same r
throughout; means are weighted by size, and attention adds the logarithm of the size to its logits. What is left goes to
the LLM. The paper's program-of-thoughts training is not part of this.

Departure from the authors' code: surviving tokens stay in spatial order; ``variant="code"`` lists them as the code
does, sources by falling similarity before destinations.
"""

from __future__ import annotations

from ..method import OneOf, Range, method, option
from ..parts.merge import bipartite
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="TinyChart: Efficient Chart Understanding with Visual Token Merging and Program-of-Thoughts Learning",
    url="https://arxiv.org/abs/2404.16635",
    systems=("S052",),
    needs=("metric", "size"),
    cost="one n/2 x n/2 similarity a block",
    vectors=("tinychart",),
)
class TinyChart:
    """Bipartite merging at a constant rate."""

    r: int = option(20, Range(0, kind=int), "tokens merged away in each block, at most half of those left")
    proportional: bool = option(True, OneOf((True, False)), "add log(size) to later attention logits")
    variant: str = option("spatial", OneOf(("spatial", "code")), "how survivors are listed; see above")

    def at(self, layers: int) -> tuple[int, ...]:
        """Every block."""
        return tuple(range(layers))

    def drops(self, n: int, prefix: int, layer: int, layers: int) -> int:
        """How many of n tokens, ``prefix`` ones included, this block merges away."""
        return min(self.r, (n - prefix) // 2)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.metric (B, n, d), tokens.size (B, n) -> merge to n - r."""
        r = self.drops(tokens.n, tokens.prefix, tokens.layer, tokens.layers)
        match = bipartite(tokens.need("metric"), r, tokens.prefix)
        out = Reduction.merge(match.into, tokens.size)
        return out.listed(match.order) if self.variant == "code" else out
