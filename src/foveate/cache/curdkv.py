"""CurDKV: keep the cached tokens that carry most of the key and value matrices.

Sengupta et al., "Value-Guided KV Compression for LLMs via Approximated CUR Decomposition", NeurIPS 2025.
https://arxiv.org/abs/2509.15038

A CUR decomposition rebuilds a matrix from some of its own rows, those with the largest leverage scores. A token's score
is the product (or the mean) of its leverage in the keys and in the values, so that values have a say without any
attention being computed. Leverage is approximated by squared lengths, compared within windows of consecutive tokens, or
after a projection to ``rank`` random directions as in the paper (the directions are the same at every call).
The first ``sinks`` entries always stay. A window of zeros counts 0 (the published code divides zero by zero there).
"""

from __future__ import annotations

from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.evict import evict
from ..parts.leverage import leverage
from ..parts.padding import unpadded
from ..parts.votes import ends_first
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Value-Guided KV Compression for LLMs via Approximated CUR Decomposition",
    url="https://arxiv.org/abs/2509.15038",
    needs=(),
    cost="one pass over keys and values, a sort of n",
    vectors=("curdkv",),
)
class CurDKV:
    """Eviction by leverage in keys and values."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each KV head keeps")
    sinks: int = option(4, Range(0, kind=int), "how many first entries are always kept")
    leverage: str = option("product", OneOf(("product", "mean", "keys", "values")), "whose leverage counts")
    local: bool = option(True, OneOf((True, False)), "compare leverage within windows")
    window: int = option(16, Range(1, kind=int), "tokens in a window")
    rank: int | None = option(None, Range(1, kind=int), "random directions to project to first; None: no projection")

    def importance(self, entries: Entries) -> Tensor:
        """(B, g, n) shares that sum to 1 in each head, 1 for the sinks. No padding."""
        window = self.window if self.local else None
        k, v = (leverage(x, window, self.rank, seed) for seed, x in enumerate((entries.keys, entries.values)))
        score = {"product": k * v, "mean": (k + v) / 2, "keys": k, "values": v}[self.leverage]
        total = score.sum(-1, keepdim=True)
        score = score / total.masked_fill(total == 0, 1)
        score[..., : self.sinks] = 1
        return score

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), higher is kept; padding -inf."""
        return unpadded(lambda e: ends_first(self.importance(e), self.sinks, 0), entries)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        return evict(self.score(entries), self.keep, entries)
