"""AuroraCap: merge patches of every frame block by block, down to a chosen share.

Chai et al., "AuroraCap: Efficient, Performant Video Detailed Captioning and a New Benchmark", ICLR 2025.
https://arxiv.org/abs/2410.03051

Bipartite soft matching as in ToMe between attention and MLP of every block of the vision tower. The share of tokens to
be left at the end is spread evenly over the blocks; no position or time code is added.

The authors' code adds log(size) to the logits of each query instead of each key, which the softmax cancels:
``variant="code"`` has no proportional attention, and lists sources before destinations. The default has both as the
paper describes them, and keeps spatial order.
"""

from __future__ import annotations

from ..method import OneOf, Range, method, option
from ..parts.merge import bipartite
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="AuroraCap: Efficient, Performant Video Detailed Captioning and a New Benchmark",
    url="https://arxiv.org/abs/2410.03051",
    systems=("S033",),
    needs=("metric", "size"),
    cost="one n/2 x n/2 similarity a block",
    vectors=("auroracap",),
)
class AuroraCap:
    """Bipartite merging down to a share of the patches."""

    ratio: float = option(0.3, Range(0, 1), "share of the patches that the last block leaves, if halving can reach it")
    r: int | None = option(None, Range(0, kind=int), "instead merge away this many in each block")
    variant: str = option("spatial", OneOf(("spatial", "code")), "the paper's rule or the code's; see above")

    @property
    def proportional(self) -> bool:
        """Whether later attention logits get log(size)."""
        return self.variant != "code"

    def at(self, layers: int) -> tuple[int, ...]:
        """Every block."""
        return tuple(range(layers))

    def drops(self, n: int, prefix: int, layer: int, layers: int, full: int | None = None) -> int:
        """How many of n tokens, ``prefix`` ones included, this block merges away; ``full`` entered the tower."""
        even = int(((n if full is None else full) - prefix) * (1 - self.ratio) / layers)
        return min(even if self.r is None else self.r, (n - prefix) // 2)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.metric (B, n, d), tokens.size (B, n) -> merge to n - r."""
        r = self.drops(tokens.n, tokens.prefix, tokens.layer, tokens.layers, tokens.full)
        match = bipartite(tokens.need("metric"), r, tokens.prefix)
        out = Reduction.merge(match.into, tokens.size)
        return out.listed(match.order) if self.variant == "code" else out
