"""EMS: score entries by old and by recent attention, evict the least of them and merge the middle into the best.

Li et al., "EMS: Adaptive Evict-then-Merge Strategy for Head-wise KV Cache Compression Based on Global-Local
Importance", 2024.
https://arxiv.org/abs/2412.08521

Attention summed over the whole prompt favours early tokens, that of the last queries favours their surroundings. The
global score is the mean attention from all queries that could see an entry, the local one the mean from the last
``window`` queries; both on the scale of their mean, the larger counts, so either is enough to stay. Each head keeps its
best entries; of the others the best ``reach`` times as many are merged into the kept one with the most similar key,
weighted by score, where that cosine is at least ``similar``, and the rest belong to the zero class: they are evicted.
The classes are found for all heads at once. No authors' code was found; how the two scores are joined, and ``reach``,
are our reading.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.evict import evict, real_first
from ..parts.evict_heads import received
from ..parts.merge_dropped import absorb_weighted, nearest
from ..parts.votes import complete, last_queries
from ..parts.window_rows import per_head, window_rows
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="EMS: Adaptive Evict-then-Merge Strategy for Head-wise KV Cache Compression Based on Global-Local Importance",
    url="https://arxiv.org/abs/2412.08521",
    systems=("S066",),
    needs=("received", "queries"),
    cost="attention of all queries (the signal received), a sort of n, similarities of the keys merged and kept",
)
class EMS:
    """Evict, then merge, in every head."""

    keep: float | int = option(0.2, Keep(), "share (float) or number (int) of entries each KV head keeps")
    window: int = option(32, Range(1, kind=int), "how many last queries make the local score; their entries stay")
    reach: float = option(4.0, Range(0, 1e6), "how many entries may be merged for each one kept")
    similar: float = option(0.6, Range(-1, 1), "cosine of keys below which an entry is evicted, not merged")

    def score(self, entries: Entries) -> Tensor:
        """entries.received (B, H, n), queries (B, H, w, d) -> (B, g, n), higher is kept."""
        g, n = entries.keys.shape[1:3]
        valid = None if entries.valid is None else entries.valid[:, None].float()
        ones = entries.keys.new_ones(n, dtype=torch.float32) if valid is None else valid
        later = ones.flip(-1).cumsum(-1).flip(-1)  # queries that could see an entry
        whole = received(entries) / later.clamp(min=1)
        rows = window_rows(entries, last_queries(entries, self.window))
        near = per_head(rows.mean(2), g)
        scaled = [s / s.mean(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) for s in (whole, near)]
        return torch.maximum(*scaled)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> m, some of the others merged into them."""
        n = entries.n
        score = self.score(entries)
        w = last_queries(entries, self.window).shape[2]
        out = evict(complete(score[..., : n - w], n), self.keep, entries)
        if out.m == n or not self.reach:
            return out
        ranked = real_first(score, entries).flatten(0, 1).masked_fill(out.kept, -torch.inf)
        order = ranked.argsort(stable=True, dim=-1, descending=True)
        rank = torch.empty_like(order).scatter(1, order, torch.arange(n, device=order.device).expand_as(order))
        real = ranked > -torch.inf
        targets = out.gather(real_first(score, entries).flatten(0, 1)) > -torch.inf
        slot, near = nearest(entries.keys.flatten(0, 1), out.keep, targets)
        gives = real & (rank < int(self.reach * out.m)) & (near >= self.similar)
        return absorb_weighted(out, slot, gives, score.flatten(0, 1))
