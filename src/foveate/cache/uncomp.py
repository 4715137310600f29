"""UNComp: heads whose queries use many directions keep twice as much of the cache as the others.

Xiong et al., "UNComp: Can Matrix Entropy Uncover Sparsity? -- A Compressor Design from an Uncertainty-Aware
Perspective", EMNLP 2025.
https://arxiv.org/abs/2410.03090

The truncated matrix entropy of a head's queries tells how much it has to tell apart. The upper half of the heads of a
layer gets 4/3 of the budget, the lower half 2/3; each then keeps what a window at the end of the prompt looks at.

Entropy is averaged over the query heads of a KV head and taken from the queries at hand. The paper also groups layers;
here all layers have the same budget. ``variant="code"`` has the sizes of the authors' code, 9/8 of the budget on
average and fixed numbers for a budget of 86.
"""

from __future__ import annotations

from torch import Tensor

from ..errors import SignalError
from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import floor_budget
from ..parts.evict_heads import evict_each
from ..parts.matrix_entropy import matrix_entropy
from ..parts.retrieval_heads import highest
from ..parts.score import pin, window_votes
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="UNComp: Can Matrix Entropy Uncover Sparsity? -- A Compressor Design from an Uncertainty-Aware Perspective",
    url="https://arxiv.org/abs/2410.03090",
    systems=("S070",),
    needs=("queries",),
    cost="a covariance of the queries, attention of the window's queries, a sort of n",
    vectors=("uncomp",),
    exempt={"budget": "the budget is that of the mean of the heads, which keep different numbers"},
)
class UNComp:
    """Window-attention eviction with entropy-sized heads."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries a KV head keeps on average")
    window: int = option(8, Range(1, kind=int), "how many last queries vote; their entries are kept first")
    pool: int = option(7, Range(1, kind=int), "width of the average pooling along tokens, odd")
    rank: int = option(32, Range(1, kind=int), "how many eigenvalues the entropy sums")
    variant: str = option("paper", OneOf(("paper", "code")), "sizes that meet the budget, or those of the code")

    def sizes(self, n: int, heads: int) -> tuple[int, int]:
        """Entries kept by a head of the lower half, and by one of the upper half."""
        m = min(self.keep, n) if isinstance(self.keep, int) else floor_budget(self.keep, n)
        upper = heads // 2
        if self.variant == "code":
            high = m * 3 // 2
            if n <= high:
                return n // 2, n
            return (16, 112) if m == 86 else (high // 2, high)
        high = min(n, round(m * 4 / 3)) if upper else m
        return (m * heads - upper * high) // max(1, heads - upper), high

    def width(self, n: int) -> int:
        """How many queries vote: in the code a window leaves half of the budget to others."""
        m = min(self.keep, n) if isinstance(self.keep, int) else floor_budget(self.keep, n)
        return min(self.window, max(1, m // 2), n - 1)

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), higher is kept."""
        if entries.queries is None:
            raise SignalError("uncomp needs the queries (B, H, w, d) of the last prompt tokens; they are None")
        w = min(self.width(entries.n), entries.queries.shape[2])
        q = entries.queries[:, :, entries.queries.shape[2] - w :]
        return pin(window_votes(q, entries.keys, entries.scaling, self.pool, entries.valid), w)

    def entropy(self, entries: Entries) -> Tensor:
        """(B, g): how many directions the queries of each KV head use."""
        assert entries.queries is not None
        b, g = entries.keys.shape[:2]
        w = entries.queries.shape[2]
        real = None if entries.valid is None else entries.valid[:, None, entries.n - w :]
        return matrix_entropy(entries.queries, self.rank, real).view(b, g, -1).mean(-1)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection, of different length in the two halves."""
        score = self.score(entries)
        return self.cut(score, highest(self.entropy(entries), score.shape[1] // 2), entries)

    def cut(self, score: Tensor, upper: Tensor, entries: Entries) -> Reduction:
        """The best entries by score (B, g, n), more of them where upper (B, g) is True."""
        low, high = self.sizes(entries.n, score.shape[1])
        return evict_each(score, upper * (high - low) + low, entries)
