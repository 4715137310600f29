"""CRITIC: keep cached tokens by a weighted mix of attention, of its spread and of what the output is sensitive to.

Srinivas et al., "Scaling Test-Time Inference with Policy-Optimized, Dynamic Retrieval-Augmented Generation via KV
Caching and Decoding", 2025.
https://arxiv.org/abs/2504.01281

Three signs of importance, each as a share of its sum over the entries, are added with weights: the attention that an
entry gets from the last queries of the prompt, the entropy of how that attention is spread over these queries (an entry
that all of them read, not one), and the gradient. The paper's gradient is that of a prediction's loss, which a cache in
use does not have; here it is the gradient of the layer's own output by the entry's logit, in closed form and without a
backward pass. The formulas of the other two are our reading of the paper's description. The newest entries stay.
"""

from __future__ import annotations

from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.evict import evict
from ..parts.pooled_budget import number_kept
from ..parts.votes import complete, last_queries
from ..parts.window_rows import column_entropy, output_gradient, per_head, shares, window_rows
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Scaling Test-Time Inference with Policy-Optimized, Dynamic Retrieval-Augmented Generation via KV Caching "
    "and Decoding",
    url="https://arxiv.org/abs/2504.01281",
    systems=("S136",),
    needs=("queries",),
    cost="attention of the window's queries and one product of it with the values, a sort of n",
)
class CRITIC:
    """Eviction by attention, entropy and gradient."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each KV head keeps")
    window: int = option(32, Range(1, kind=int), "how many last queries judge")
    recent: int = option(8, Range(0, kind=int), "newest entries that are kept before all others")
    attention: float = option(0.4, Range(0, 1e3), "weight of the attention received")
    entropy: float = option(0.3, Range(0, 1e3), "weight of the entropy")
    gradient: float = option(0.3, Range(0, 1e3), "weight of the gradient")

    def score(self, entries: Entries) -> Tensor:
        """entries.queries (B, H, w, d), keys and values (B, g, n, d) -> (B, g, n), higher is kept."""
        g = entries.keys.shape[1]
        rows = window_rows(entries, last_queries(entries, self.window))
        parts = (rows.mean(2), column_entropy(rows), output_gradient(rows, entries.values))
        weights = (self.attention, self.entropy, self.gradient)
        return sum((w * shares(per_head(p, g)) for w, p in zip(weights, parts)), entries.keys.new_zeros(()).float())

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        latest = min(self.recent, number_kept(self.keep, entries.n))
        return evict(complete(self.score(entries)[..., : entries.n - latest], entries.n), self.keep, entries)
