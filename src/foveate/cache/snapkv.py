"""SnapKV: keep the cached tokens that the last few queries of the prompt look at.

Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation", NeurIPS 2024.
https://arxiv.org/abs/2404.14469

The attention of an observation window at the end of the prompt predicts what decoding will read. Its votes are pooled
along tokens, so that neighbours of a hit survive too, and averaged over the query heads of each KV head; every KV head
keeps its own best entries, the window included.

One choice for each KV head (average pooling, votes averaged over its query heads), as the toolkits of the field do it;
the first release chose per query head.
"""

from __future__ import annotations

from torch import Tensor

from ..errors import SignalError
from ..method import Keep, Range, method, option
from ..parts.evict import evict
from ..parts.score import pin, window_votes
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="SnapKV: LLM Knows What You are Looking for Before Generation",
    url="https://arxiv.org/abs/2404.14469",
    needs=("queries",),
    cost="attention of the window's queries, a sort of n",
    vectors=("snapkv",),
)
class SnapKV:
    """Window-attention eviction."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head keeps")
    window: int = option(64, Range(1, kind=int), "how many last queries vote; their entries are always kept")
    pool: int = option(5, Range(1, kind=int), "width of the average pooling along tokens, odd")

    def score(self, entries: Entries) -> Tensor:
        """entries.queries (B, H, w, d), entries.keys (B, g, n, d) -> (B, g, n), higher is kept."""
        if entries.queries is None:
            raise SignalError("snapkv needs the queries (B, H, w, d) of the last prompt tokens; they are None")
        w = min(self.window, entries.n - 1, entries.queries.shape[2])
        q = entries.queries[:, :, entries.queries.shape[2] - w :]
        return pin(window_votes(q, entries.keys, entries.scaling, self.pool, entries.valid), w)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        return evict(self.score(entries), self.keep, entries)
