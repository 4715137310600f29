"""PyramidKV: SnapKV's choice with a budget that shrinks from the first layer to the last.

Cai et al., "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling", 2024.
https://arxiv.org/abs/2406.02069

Attention is spread wide in early layers and gathers on few tokens later, so early layers get more of the cache: the
last layer the share 1 / ``beta`` of the mean budget, the first what makes the mean come out, the others linearly
between. Where the prompt is too short for that, all layers get the same. As in the toolkits the budget is a share of
the prompt and includes the window; the first release has a capacity in tokens (``keep`` as a number) and leaves shorter
prompts whole.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.evict import evict
from ..parts.votes import complete, votes
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling",
    url="https://arxiv.org/abs/2406.02069",
    needs=("queries",),
    cost="attention of the window's queries, a sort of n",
    vectors=("pyramidkv",),
    exempt={"budget": "keep is the mean over the layers: the first keep more, the last fewer"},
)
class PyramidKV:
    """Window-attention eviction with a pyramid of budgets."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head keeps on average")
    window: int = option(64, Range(1, kind=int), "how many last queries vote; their entries are always kept")
    pool: int = option(5, Range(1, kind=int), "width of the average pooling along tokens, odd")
    beta: float = option(20, Range(1), "the last layer gets 1 / beta of the mean budget")

    def share(self, n: int, layer: int, layers: int) -> int:
        """How many of n entries a layer keeps."""
        mean = n * self.keep if isinstance(self.keep, float) else min(n, self.keep)
        low = mean / self.beta
        high = 2 * mean - low
        if high >= n - self.window:
            high = n - self.window
            low = 2 * mean - high
        if layers < 2 or not n >= high >= low >= self.window:
            return max(1, round(mean))
        return round(high - layer * (high - low) / (layers - 1))

    def score(self, entries: Entries) -> Tensor:
        """entries.queries (B, H, w, d), entries.keys (B, g, n, d) -> (B, g, n), higher is kept."""
        return complete(votes(entries, "window", self.window, self.pool), entries.n)

    def between(self, entries: Entries, total: int, last: bool) -> PyramidKV:
        """The method after one piece of a prompt of ``total`` tokens: this layer's number, whatever it holds by now."""
        return replace(self, keep=self.share(total, entries.layer, entries.layers), beta=1)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        return evict(self.score(entries), self.share(entries.n, entries.layer, entries.layers), entries)
