"""Expected Attention: keep the cached tokens that queries yet to come will attend to, as far as that can be computed.

Devoto et al., "Expected Attention: KV Cache Compression by Estimating Attention from Future Queries Distribution",
2025.
https://arxiv.org/abs/2510.00636

Queries before RoPE are close to normally distributed. Their mean and covariance over the prompt, turned by the average
RoPE matrix of the next ``future`` positions, give the expectation of exp(logit) of each key in closed form; normalised
and multiplied with the norm of the value it is the entry's expected contribution. The first ``sinks`` entries stay and
are left out of the statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.evict import evict
from ..parts.padding import unpadded
from ..parts.rotary import mean_turn
from ..parts.votes import ends_first, given
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Expected Attention: KV Cache Compression by Estimating Attention from Future Queries Distribution",
    url="https://arxiv.org/abs/2510.00636",
    needs=("raw_queries", "rotary"),
    cost="a covariance of the queries and a quadratic form of each key for every head: n d^2; a sort of n",
    vectors=("expected_attention",),
)
class ExpectedAttention:
    """Eviction by estimated future attention."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each KV head keeps")
    future: int = option(512, Range(1, kind=int), "over how many next positions RoPE is averaged")
    sinks: int = option(4, Range(0, kind=int), "how many first entries are always kept")
    covariance: bool = option(True, OneOf((True, False)), "use the spread of the queries, not only their mean")
    norms: bool = option(True, OneOf((True, False)), "multiply with the norm of the value")
    epsilon: float = option(0.02, Range(0), "added to the expected attention before that")

    def score(self, entries: Entries) -> Tensor:
        """entries.raw_queries (B, H, n, d), entries.rotary (B, d/2) -> (B, g, n - sinks), higher is kept. No padding.

        The first entries have no score; where there are no others it is empty.
        """
        keys, rates = entries.keys[:, :, self.sinks :].float(), given(entries, "rotary")
        queries = given(entries, "raw_queries")[:, :, self.sinks :].float()
        b, g, n, d = keys.shape
        if not n:
            return keys.new_zeros(b, g, 0)
        start = entries.following
        start = torch.full((b,), entries.n, device=keys.device) if start is None else start
        turn = mean_turn(start, self.future, rates)[:, None]  # (B, 1, d, d)
        mean = queries.mean(2, keepdim=True)
        ahead = (mean @ turn.mT).view(b, g, -1, d)  # (B, g, H / g, d)
        logits = (keys @ ahead.mT).mT * entries.scaling  # (B, g, H / g, n)
        if self.covariance:
            apart = queries - mean
            spread = (turn @ (apart.mT @ apart / max(1, queries.shape[2])) @ turn.mT).view(b, g, -1, d, d)
            logits = logits + ((keys[:, :, None] @ spread) * keys[:, :, None]).sum(-1) * (entries.scaling**2 / 2)
        score: Tensor = logits.softmax(-1).mean(2)
        if not self.norms:
            return score
        size: Tensor = entries.values[:, :, self.sinks :].float().norm(dim=-1)
        return (score + self.epsilon) * size

    def _whole(self, entries: Entries) -> Tensor:
        """(B, g, n), the sinks above all."""
        score = self.score(entries)
        head = entries.n - score.shape[-1]
        return ends_first(torch.cat([score.new_zeros(*score.shape[:2], head), score], -1), head, 0)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        return evict(unpadded(self._whole, entries), self.keep, entries)
