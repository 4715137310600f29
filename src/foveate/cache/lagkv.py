"""LagKV: keep the cached tokens that stand out on the scale of the tokens after them.

Liang et al., "LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are Important", 2025.
https://arxiv.org/abs/2504.04704

After a few sinks the cache is cut into parts of ``lag`` tokens. Each part is normalised by the range that the next part
has in every channel; tokens whose channels then vary much are kept, by keys and values alike. The sinks, the last whole
part and what follows it come first, the latest foremost. Needs no attention. Parts share the budget evenly: scores
count as ranks in their part, unless ``across`` compares them as they are. A prompt of less than two parts keeps its
sinks and a recent window. Departure from the toolkit's code: a channel that is constant in the next part is ignored,
where the code divides by zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.evict import evict
from ..parts.lag import lag_scores, ranks
from ..parts.padding import unpadded
from ..parts.votes import ends_first
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are Important",
    url="https://arxiv.org/abs/2504.04704",
    needs=(),
    cost="a few passes over keys and values, a sort of n",
    vectors=("lagkv",),
)
class LagKV:
    """Lag-relative eviction."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each KV head keeps")
    sinks: int = option(4, Range(0, kind=int), "how many first entries come before all others")
    lag: int = option(128, Range(1, kind=int), "tokens in a part")
    across: bool = option(False, OneOf((False, True)), "compare scores of different parts as they are, not as ranks")

    def tail(self, n: int) -> int:
        """How many last entries of n are no part with a next one; 0 where no part is."""
        parts = (n - self.sinks) // self.lag
        return n - self.sinks - (parts - 1) * self.lag if parts >= 2 else 0

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), higher is kept; 1 for the sinks and the tail. No padding."""
        b, g, n = entries.keys.shape[:3]
        out = torch.ones(b, g, n, device=entries.keys.device)
        tail, body = self.tail(n), slice(self.sinks, n)
        if not tail:
            out[..., body] = torch.arange(max(0, n - self.sinks), device=out.device) / max(1, n - self.sinks)
            return out
        whole = slice(self.sinks, n - (n - self.sinks) % self.lag)
        score = (
            lag_scores(entries.keys[:, :, whole], self.lag) + lag_scores(entries.values[:, :, whole], self.lag)
        ) / 2
        out[..., self.sinks : n - tail] = (score if self.across else ranks(score) / self.lag).flatten(-2)
        return out

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        score = unpadded(lambda e: ends_first(self.score(e), self.sinks, self.tail(e.n)), entries)
        return evict(score, self.keep, entries)
