"""KeyDiff: keep the cached tokens whose keys point away from the average key.

Park et al., "KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in Resource-Constrained
Environments", 2025.
https://arxiv.org/abs/2504.15364

Distinctive keys receive high attention, and what resembles the mean direction of the cache is redundant; the entries
with the lowest cosine to that mean stay. Needs no attention. The paper meets its budget block by block while the
prompt is read, the mean recomputed over what is held and what is new: ``block``. By default one pass over the prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.evict import evict
from ..parts.pooled_budget import number_kept
from ..parts.select import top
from ..parts.votes import unlike_mean
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in Resource-Constrained "
    "Environments",
    url="https://arxiv.org/abs/2504.15364",
    needs=(),
    cost="a mean and a cosine of every key, a sort of n; by blocks, of budget + block each",
    vectors=("keydiff", "keydiff_block"),
)
class KeyDiff:
    """Eviction of keys that resemble their mean."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each KV head keeps")
    block: int | None = option(None, Range(1, kind=int), "tokens that join before each cut; None: all at once")

    def score(self, entries: Entries) -> Tensor:
        """entries.keys (B, g, n, d) -> (B, g, n), higher is kept."""
        return unlike_mean(entries.keys, entries.valid)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        if self.block is None:
            return evict(self.score(entries), self.keep, entries)
        return self._by_blocks(entries, self.block)

    def _by_blocks(self, entries: Entries, block: int) -> Reduction:
        """Start from the first m entries; each further block joins, and the m most distinctive survive."""
        keys = entries.keys.float().flatten(0, 1)
        rows, n, d = keys.shape
        m = number_kept(self.keep, n)
        valid = torch.ones(rows, n, dtype=torch.bool, device=keys.device)
        if entries.valid is not None:
            valid = entries.valid.repeat_interleave(entries.keys.shape[1], 0)
        held = torch.arange(m, device=keys.device).expand(rows, m)
        for start in range(m, n, block):
            new = torch.arange(start, min(start + block, n), device=keys.device).expand(rows, -1)
            held = torch.cat([held, new], 1)
            real = valid.gather(1, held)
            score = unlike_mean(keys.gather(1, held[..., None].expand(-1, -1, d))[:, None], real)[:, 0]
            held = held.gather(1, top(score.masked_fill(~real, -torch.inf), m))
        return Reduction.take(held, n)
