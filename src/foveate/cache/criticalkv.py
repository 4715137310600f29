"""CriticalKV: keep the cached tokens whose loss would change the attention's output most.

Feng et al., "Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective", 2025.
https://arxiv.org/abs/2502.03805

Evicting an entry changes the output by its attention weight times its value, projected. Half of the budget goes to the
best entries by attention alone, which makes the bound of that change hold; the other half to the best by attention
times the L1 norm of the value after the output projection. It goes with any score (``base``), by default what the last
queries look at, as SnapKV.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.evict import evict
from ..parts.pooled_budget import number_kept
from ..parts.value_norms import projected_norms
from ..parts.votes import BASES, crown, given, votes
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective",
    url="https://arxiv.org/abs/2502.03805",
    needs=("queries", "output"),
    cost="that of the score, the output projection of every value by each query head, two sorts of n",
    vectors=("criticalkv",),
)
class CriticalKV:
    """Attention times projected values."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head keeps")
    first: float = option(0.5, Range(0, 1), "share of the budget that goes by the score alone")
    epsilon: float = option(1e-4, Range(0), "added to a score before it is multiplied with the norm")
    base: str = option("window", OneOf(BASES[:2]), "the score")
    window: int = option(64, Range(1, kind=int), "how many last queries vote; their entries are kept first")
    pool: int = option(5, Range(1, kind=int), "width of the average pooling along tokens, odd")

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), higher is kept; the entries of the first part of the budget hold the largest float."""
        score = crown(votes(entries, self.base, self.window, self.pool), entries.n).float()
        if entries.valid is not None:
            score = score.masked_fill(~entries.valid[:, None], 0)
        n = entries.n
        best = int((self.keep * n if isinstance(self.keep, float) else number_kept(self.keep, n)) * self.first)
        best = min(n, max(1, best)) if self.first else 0
        early = score.argsort(stable=True, dim=-1, descending=True)[..., :best]
        size = projected_norms(entries.values, given(entries, "output"), 1)
        size = size.unflatten(1, (score.shape[1], -1)).mean(2)
        second: Tensor = (score + self.epsilon) * size
        return second.scatter(-1, early, torch.finfo(torch.float32).max)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        return evict(self.score(entries), self.keep, entries)
