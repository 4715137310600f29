"""Scissorhands: keep the cached tokens that recent queries found important, as they will be found so again.

Liu et al., "Scissorhands: Exploiting the Persistence of Importance Hypothesis for LLM KV Cache Compression at Test
Time", NeurIPS 2023.
https://arxiv.org/abs/2305.17118

In each of the last ``window`` queries a token counts as pivotal if it gets at least the attention of an even spread;
those pivotal the least often leave. The latest ``recent`` tokens stay. Counts tie often: attention itself then decides.
Each KV head chooses for itself, with the counts of its query heads summed.

The authors' code (``variant="code"``) has no budget: it keeps what is above the 90th percentile of any of those rows.
It also lets dropped tokens come back while decoding, which a cache cannot; ``parts.persistence.replay`` shows that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SignalError
from ..method import Keep, OneOf, Range, method, option
from ..parts.evict import evict
from ..parts.evict_heads import place
from ..parts.persistence import above_chance, high_bar, persistent
from ..parts.score import attention_rows, causal_tail
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Scissorhands: Exploiting the Persistence of Importance Hypothesis for LLM KV Cache Compression at Test Time",
    url="https://arxiv.org/abs/2305.17118",
    systems=("S069",),
    needs=("queries",),
    cost="attention of the window's queries, a sort of n",
    vectors=("scissorhands",),
)
class Scissorhands:
    """Eviction by counts of pivotal rows."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each KV head keeps")
    window: int = option(400, Range(1, kind=int), "how many last queries count")
    recent: int = option(10, Range(0, kind=int), "how many latest entries are always kept")
    variant: str = option("paper", OneOf(("paper", "code")), "counts and a budget, or any row above its percentile")

    def rows(self, entries: Entries) -> tuple[Tensor, Tensor]:
        """Attention of the window (B, H, w, n), and how many keys each row sees, (B or 1, 1, w, 1)."""
        if entries.queries is None:
            raise SignalError("scissorhands needs the queries (B, H, w, d) of the last prompt tokens; they are None")
        w = min(self.window, entries.n, entries.queries.shape[2])
        mask = causal_tail(w, entries.n, entries.keys.device)[None, None]
        if entries.valid is not None:
            mask = mask & entries.valid[:, None, None]
        q = entries.queries[:, :, entries.queries.shape[2] - w :]
        rows = attention_rows(q, entries.keys, entries.scaling, mask).nan_to_num(0.0)
        return rows, mask.sum(-1, keepdim=True)

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), higher is kept."""
        b, g, n = entries.keys.shape[:3]
        rows, visible = self.rows(entries)
        count = above_chance(rows, visible).sum(2) + rows.mean(2)
        at = place(entries)[:, None]
        last = at[..., -1:] - self.recent
        return torch.where(at > last, 1e9 + (at - last), count.view(b, g, -1, n).sum(2))

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        if self.variant == "paper":
            return evict(self.score(entries), self.keep, entries)
        b, g, n = entries.keys.shape[:3]
        rows, _ = self.rows(entries)
        kept = persistent(rows, high_bar(rows), self.recent)[1].view(b, g, -1, n).any(2)
        if entries.valid is not None:
            kept = kept & entries.valid[:, None]
        return Reduction.from_mask(kept.view(b * g, n))
