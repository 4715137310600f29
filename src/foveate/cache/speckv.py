"""SpecKV: keep the cached tokens that a look ahead at the answer reads.

Galim et al., "Draft-based Approximate Inference for LLMs", 2025.
https://arxiv.org/abs/2506.08373

A small draft model answers first. The target reads prompt and draft in one go, and the attention of its last queries,
those of the drafted tokens among them, tells what decoding will read: the largest over the queries and query heads of
each KV head, smoothed along tokens. The drafted tokens' own entries leave again afterwards.

Who calls supplies the draft: ``window`` counts the drafted tokens at the end of the sequence too, and cropping them is
the caller's. Without a draft the window is the end of the prompt.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d

from ..errors import SignalError
from ..method import Keep, OneOf, Range, method, option
from ..parts.evict import evict
from ..parts.score import attention_rows, causal_tail, pin
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Draft-based Approximate Inference for LLMs",
    url="https://arxiv.org/abs/2506.08373",
    systems=("S078",),
    needs=("queries",),
    cost="attention of the window's queries, a sort of n; and the draft",
    vectors=("speckv",),
)
class SpecKV:
    """Eviction by what a draft looks at."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head keeps")
    window: int = option(64, Range(1, kind=int), "how many last queries look; their entries are always kept")
    over: str = option("max", OneOf(("max", "mean")), "how queries and heads are put together")
    smooth: str = option("max", OneOf(("max", "mean")), "how neighbours share a score")
    pool: int = option(7, Range(1, kind=int), "how many neighbours do, odd")

    def votes(self, entries: Entries) -> Tensor:
        """(B, g, n - w): what the window looks at before itself."""
        if entries.queries is None:
            raise SignalError("speckv needs the queries (B, H, w, d) of the last tokens; they are None")
        b, g, n = entries.keys.shape[:3]
        w = min(self.window, n - 1, entries.queries.shape[2])
        if not w:
            return entries.keys.new_zeros(b, g, n).float()
        mask = causal_tail(w, n, entries.keys.device)
        if entries.valid is not None:
            mask = mask & entries.valid[:, None, None]
        q = entries.queries[:, :, entries.queries.shape[2] - w :]
        rows = attention_rows(q, entries.keys, entries.scaling, mask).nan_to_num(0.0)[..., : n - w]
        rows = rows.reshape(b, g, -1, n - w)
        score = rows.amax(2) if self.over == "max" else rows.mean(2)
        pool = max_pool1d if self.smooth == "max" else avg_pool1d
        return pool(score, self.pool, stride=1, padding=self.pool // 2)[..., : n - w]

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        votes = self.votes(entries)
        return evict(pin(votes, entries.n - votes.shape[-1]), self.keep, entries)
