"""AdaKV: one budget for all heads of a layer, so that heads which need more of the cache get it.

Feng et al., "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference", NeurIPS
2025.
https://arxiv.org/abs/2407.11550

Scores of all heads are compared with each other and the lowest of the layer leave, which bounds the loss of attention
lower than equal budgets do; each head keeps at least a share of the even budget. It goes with any score (``base``):
what the last queries look at, as SnapKV, by default. The guarantee follows the toolkit's code (a head's own best
entries are safe); the paper mixes an adaptive and an even budget, which comes to nearly the same.
"""

from __future__ import annotations

from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.pooled_budget import lowest_out, number_kept
from ..parts.votes import BASES, complete, votes
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference",
    url="https://arxiv.org/abs/2407.11550",
    needs=("queries",),
    cost="that of the score, a sort of the n entries of all heads",
    vectors=("adakv",),
    exempt={"budget": "keep is the mean over the heads of a layer, which keep different numbers"},
)
class AdaKV:
    """Eviction over all heads together."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head keeps on average")
    safe: float = option(0.2, Range(0, 1), "share of the even budget that each head is sure of")
    base: str = option("window", OneOf(BASES), "the score")
    window: int = option(64, Range(1, kind=int), "how many last queries vote; their entries are always kept")
    pool: int = option(5, Range(1, kind=int), "width of the average pooling along tokens, odd")

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), higher is kept; comparable between heads."""
        return complete(votes(entries, self.base, self.window, self.pool), entries.n)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection, the same number in all for a batch row."""
        score, n = self.score(entries), entries.n
        if entries.valid is not None:
            score = score.masked_fill(~entries.valid[:, None], -float("inf"))
        m = number_kept(self.keep, n)
        sure = max(1, int(m * self.safe)) if self.safe else 0
        return Reduction.from_mask(lowest_out(score, score.shape[1] * (n - m), sure).flatten(0, 1))
