"""TOVA: keep the cached tokens that the latest token attends to.

Oren et al., "Transformers are Multi-State RNNs", EMNLP 2024.
https://arxiv.org/abs/2401.06104

A cache of fixed size is the state of a recurrent network; whenever it is full, the entry with the lowest attention from
the newest token leaves. Attention is averaged over all heads of a layer, so its heads keep the same tokens. One cut
after the prompt here; with ``every=1`` and a count to keep, an entry leaves at every step as in the paper. The last
token itself always stays, which the paper does not force.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.evict import evict
from ..parts.votes import complete, votes
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Transformers are Multi-State RNNs",
    url="https://arxiv.org/abs/2401.06104",
    needs=("queries",),
    cost="attention of one query, a sort of n",
    vectors=("tova",),
)
class TOVA:
    """Eviction by the last query's attention."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each KV head keeps")
    every: int | None = option(None, Range(1, kind=int), "ask again after so many generated tokens; None: once")

    window: ClassVar[int] = 1

    def score(self, entries: Entries) -> Tensor:
        """entries.queries (B, H, w, d), entries.keys (B, g, n, d) -> (B, g, n), higher is kept."""
        return complete(votes(entries, "last_query"), entries.n)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m, the same in all heads."""
        return evict(self.score(entries), self.keep, entries)
