"""ChunkKV: keep or drop whole runs of neighbouring cached tokens, the same for all heads of a layer.

Liu et al., "ChunkKV: Semantic-Preserving KV Cache Compression for Efficient Long-Context LLM Inference", NeurIPS 2025.
https://arxiv.org/abs/2502.00299

Isolated tokens lose their meaning; a run of a few keeps it. Scores of the entries, by default what the last queries
look at, as SnapKV, are summed over the heads and averaged over each chunk. Chunks are taken from the best on; of the
one that does not fit whole, the best tokens. ``variant="code"`` keeps a share of the chunks, rounded down, so that the
number of tokens depends on whether the short last chunk is one of them. In both, each row of a batch decides for
itself (the code lets the first decide for all), and a prompt shorter than one chunk is cut token by token.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..method import Keep, OneOf, Range, method, option
from ..parts.evict import evict
from ..parts.padding import unpadded
from ..parts.pooled_budget import number_kept
from ..parts.select import top
from ..parts.votes import BASES, complete, crown, votes
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="ChunkKV: Semantic-Preserving KV Cache Compression for Efficient Long-Context LLM Inference",
    url="https://arxiv.org/abs/2502.00299",
    needs=("queries",),
    cost="that of the score, a sort of n",
    vectors=("chunkkv",),
)
class ChunkKV:
    """Eviction of whole chunks."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head keeps")
    chunk: int = option(20, Range(1, kind=int), "tokens in a chunk")
    base: str = option("window", OneOf(BASES), "the score of a token")
    window: int = option(64, Range(1, kind=int), "how many last queries vote; their entries are kept first")
    pool: int = option(5, Range(1, kind=int), "width of the average pooling along tokens, odd")
    variant: str = option("paper", OneOf(("paper", "code")), "code: a number of whole chunks; see above")

    def chunks(self, score: Tensor) -> Tensor:
        """score (B, n) of tokens -> (B, C): mean of each chunk, the last one perhaps shorter."""
        n = score.shape[-1]
        sums = pad(score, (0, -n % self.chunk)).unflatten(-1, (-1, self.chunk)).sum(-1)
        sizes = torch.full_like(sums[0], self.chunk)
        sizes[-1] = n - (len(sizes) - 1) * self.chunk
        mean: Tensor = sums / sizes
        return mean

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), higher is kept: tokens of better chunks first, inside a chunk better tokens. No padding."""
        raw = votes(entries, self.base, self.window, self.pool)
        if entries.n < self.chunk:
            return complete(raw, entries.n)
        score = crown(raw, entries.n).float().sum(1)
        order = self.chunks(score).argsort(stable=True, dim=-1, descending=True)
        place = order.argsort(dim=-1).repeat_interleave(self.chunk, -1)[:, : entries.n]
        by = score.argsort(stable=True, dim=-1, descending=True)
        by = by.gather(1, place.gather(1, by).argsort(stable=True, dim=-1))
        rank = torch.arange(entries.n, 0, -1, device=by.device).float().expand_as(by)
        return torch.empty_like(rank).scatter(1, by, rank)[:, None].expand(raw.shape[0], raw.shape[1], entries.n)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        if self.variant == "paper" or entries.n < self.chunk:
            return evict(unpadded(self.score, entries), self.keep, entries)
        score = crown(votes(entries, self.base, self.window, self.pool), entries.n).float().sum(1)
        chunks = self.chunks(score)
        share = self.keep if isinstance(self.keep, float) else min(1.0, self.keep / entries.n)
        best = top(chunks, number_kept(share, chunks.shape[1]))
        mask = torch.zeros_like(chunks, dtype=torch.bool).scatter(1, best, True)
        mask = mask.repeat_interleave(self.chunk, -1)[:, : entries.n]
        return Reduction.from_mask(mask.repeat_interleave(entries.keys.shape[1], 0))
