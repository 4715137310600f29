"""H2O: keep the heavy hitters, the cached tokens that received the most attention so far, and the most recent ones.

Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models", NeurIPS 2023.
https://arxiv.org/abs/2306.14048

A few tokens collect most of the attention, and those that did so far go on doing it: the accumulated attention of an
entry is its score, and a part of the budget is reserved for recent tokens, which had no time to collect. With
``every=1`` sums are carried on and the same rule is the paper's greedy step at every token. Query heads that share a KV
head vote together.

``average`` divides the sum by the number of queries that could see the entry, which takes the bias to early tokens
away; toolkits run it with ``recent=0.0``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.evict import evict
from ..parts.pooled_budget import number_kept
from ..parts.votes import complete, given
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models",
    url="https://arxiv.org/abs/2306.14048",
    needs=("received",),
    cost="attention of all queries, which the site sums up; a sort of n",
    vectors=("observed_attention",),
)
class H2O:
    """Accumulated attention and recency."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each KV head keeps")
    recent: float = option(0.5, Range(0, 1), "part of the budget reserved for the latest entries")
    average: bool = option(False, OneOf((False, True)), "divide by how many queries could see the entry")
    every: int | None = option(None, Range(1, kind=int), "ask again after so many generated tokens; None: once")

    def score(self, entries: Entries) -> Tensor:
        """entries.received (B, H, n) -> (B, g, n), higher is kept; without the recent entries' right to stay."""
        received = given(entries, "received").float()
        g, n = entries.keys.shape[1:3]
        if self.average:
            received = received / torch.arange(n, 0, -1, device=received.device)
        shared: Tensor = received.unflatten(1, (g, -1)).mean(2)
        return shared

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        latest = int(number_kept(self.keep, entries.n) * self.recent)
        score = self.score(entries)[..., : entries.n - latest]
        return evict(complete(score, entries.n), self.keep, entries)
