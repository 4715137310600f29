"""KVMerger: runs of consecutive cached tokens with similar keys become one entry each.

Wang et al., "Model Tells You Where to Merge: Adaptive KV Cache Merging for LLMs on Long-Context Tasks", 2024.
https://arxiv.org/abs/2407.08454

Keys of neighbouring tokens resemble each other. Neighbours whose keys have a cosine of at least ``similar`` form a set,
which is merged around its pivot, the member that received most attention: each member weighs by a Gaussian kernel of
its key's distance to the pivot's, and values follow the keys. The tokens with most attention and the newest ones are
never merged.

The budget is met exactly: the most similar neighbours are joined first and no more than needed; where too few are
similar enough, the sets with the least attention are dropped. Each head finds its own sets. No authors' code was found.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.evict import real_first
from ..parts.evict_heads import received
from ..parts.gaussian_sets import gaussian_shares, pivots, runs_of
from ..parts.pooled_budget import number_kept
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Model Tells You Where to Merge: Adaptive KV Cache Merging for LLMs on Long-Context Tasks",
    url="https://arxiv.org/abs/2407.08454",
    systems=("S072",),
    needs=("received|queries",),
    cost="attention of all queries (the signal received), similarities of neighbours, a sort of n",
)
class KVMerger:
    """Merging of consecutive similar keys."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each KV head keeps")
    similar: float = option(0.75, Range(-1, 1), "cosine from which neighbours may be merged")
    heavy: float = option(0.2, Range(0, 0.5), "part of the budget for tokens with most attention, never merged")
    recent: float = option(0.2, Range(0, 0.5), "part of the budget for the newest tokens, never merged")

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> m."""
        n = entries.n
        m = number_kept(self.keep, n)
        if m == n:
            return Reduction.identity(len(entries.keys) * entries.keys.shape[1], n, entries.keys.device)
        score = real_first(received(entries), entries).flatten(0, 1)
        return Reduction.stack([self._row(k, s, m) for k, s in zip(entries.keys.flatten(0, 1), score)])

    def _row(self, keys: Tensor, score: Tensor, m: int) -> Reduction:
        """keys (n, d), score (n,) with -inf where there is no entry."""
        at = (score > -torch.inf).nonzero()[:, 0]
        left = min(m, len(at))
        pads = (score == -torch.inf).nonzero()[:, 0][: m - left]
        assign, weight = torch.full_like(score, -1, dtype=torch.long), torch.zeros_like(score)
        if left < len(at):
            run, keep, share = self._sets(keys[at], score[at], left)
        else:
            run, keep, share = torch.arange(len(at), device=at.device), at.new_tensor(range(len(at))), None
        keep, slots = torch.cat([pads, at[keep]]).sort()
        slot = torch.empty_like(slots).scatter(0, slots, torch.arange(len(slots), device=at.device))
        assign[pads], weight[pads] = slot[: len(pads)], 1.0
        inside = run >= 0
        assign[at[inside]] = slot[len(pads) :][run[inside]]
        weight[at[inside]] = torch.ones_like(weight[at[inside]]) if share is None else share[inside]
        merged = int((assign >= 0).sum()) > len(keep)
        return Reduction(keep[None], assign[None], weight[None], None, not merged)

    def _sets(self, keys: Tensor, score: Tensor, m: int) -> tuple[Tensor, Tensor, Tensor]:
        """Real entries (n, d) and their attention (n,) -> set of each (-1: dropped), pivots (m,), shares (n,)."""
        n = len(keys)
        apart = torch.arange(n, device=keys.device) >= n - int(self.recent * m)
        order = score.masked_fill(apart, -torch.inf).argsort(stable=True, descending=True)
        apart[order[: int(self.heavy * m)]] = True
        run = runs_of(keys, m, self.similar, apart)
        pivot = pivots(run, score)
        share = gaussian_shares(keys, run, pivot)
        mass = torch.zeros(len(pivot), device=keys.device).index_add(0, run, score)
        mass = mass.masked_fill(apart[pivot], torch.inf)  # at most 0.5 + 0.5 of m stand apart
        best = mass.argsort(stable=True, descending=True)[:m].sort().values
        number = torch.full_like(pivot, -1).scatter(0, best, torch.arange(len(best), device=best.device))
        return number[run], pivot[best], share
