"""CompressKV: only heads that retrieve meaning vote on which cached tokens stay; layers share a budget by their error.

Lin et al., "CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before Generation", 2025.
https://arxiv.org/abs/2508.02401

Most heads look at the first and the last tokens, and their votes drown those of the few that find what a text is about.
In each layer the best ``first`` of those, found once for a model, vote with the attention of the last queries; all KV
heads of the layer keep the same tokens. A layer's budget grows with the error that eviction made in it in a calibration
run. :mod:`foveate.parts.semantic_heads` measures both; by default all heads vote and all layers get the same. Eviction
starts at ``keep``, a mean over layers; the first release counts in tokens and leaves shorter prompts whole.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d

from ..errors import OptionError
from ..method import Keep, Many, OneOf, Range, method, option
from ..parts.evict import evict
from ..parts.layer_budgets import layer_budgets
from ..parts.pooled_budget import number_kept
from ..parts.score import attention_rows, causal_tail
from ..parts.votes import complete, last_queries
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before Generation",
    url="https://arxiv.org/abs/2508.02401",
    systems=("S065",),
    needs=("queries",),
    cost="attention of the window's queries in a few heads, a sort of n",
    vectors=("compresskv",),
)
class CompressKV:
    """Eviction by semantic retrieval heads."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each layer keeps on average")
    window: int = option(8, Range(1, kind=int), "how many last queries vote; their entries are always kept")
    pool: int = option(5, Range(1, kind=int), "width of the pooling along tokens, odd")
    pooling: str = option("avg", OneOf(("avg", "max")), "how votes of neighbours are pooled")
    heads: tuple[int, ...] = option(
        (), Many(Range(0, kind=int)), "query heads that vote, ``first`` for each layer, layer after layer; empty: all"
    )
    first: int = option(4, Range(1, kind=int), "how many heads vote in each layer, where heads are given")
    importance: tuple[float, ...] = option((), Many(Range(0)), "of each layer, summing to 1; empty: the same for all")
    least: int = option(32, Range(1, kind=int), "entries every layer gets, where importance is given")
    most: float = option(3.0, Range(1), "the most a layer gets, as a multiple of the mean")

    def budget(self, n: int, layer: int) -> int:
        """Entries that a layer keeps of n."""
        mean = number_kept(self.keep, n)
        if not self.importance or mean >= n:
            return mean
        total = mean * len(self.importance)
        return min(n, layer_budgets(self.importance, total, min(self.least, mean), round(self.most * mean))[layer])

    def voters(self, layer: int, heads: int) -> list[int]:
        """Query heads of a layer that vote.

        Raises:
            OptionError: the option names none for this layer.
        """
        if not self.heads:
            return list(range(heads))
        named = list(self.heads[layer * self.first : (layer + 1) * self.first])
        if not named or max(named) >= heads:
            raise OptionError(f"'heads' of compresskv must name {self.first} of {heads} heads for layer {layer}")
        return named

    def score(self, entries: Entries) -> Tensor:
        """entries.queries (B, H, w, d), entries.keys (B, g, n, d) -> (B, g, n), higher is kept; heads agree."""
        b, g, n = entries.keys.shape[:3]
        queries = last_queries(entries, self.window)
        w, each = queries.shape[2], queries.shape[1] // g
        if not w:
            return complete(torch.zeros(b, g, n, device=entries.keys.device), n)
        voters = self.voters(entries.layer, queries.shape[1])
        mask = causal_tail(w, n, queries.device)
        if entries.valid is not None:
            mask = mask & entries.valid[:, None, None]
        rows = attention_rows(queries[:, voters], entries.keys[:, [h // each for h in voters]], entries.scaling, mask)
        voted = rows.nan_to_num(0.0)[..., : n - w].sum(2)
        pool = avg_pool1d if self.pooling == "avg" else max_pool1d
        pooled = pool(voted, self.pool, stride=1, padding=self.pool // 2)[..., : n - w].mean(1, keepdim=True)
        return complete(pooled.expand(b, g, n - w), n)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m, the same in all heads."""
        return evict(self.score(entries), self.budget(entries.n, entries.layer), entries)
