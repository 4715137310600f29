"""Knorm: keep the cached tokens whose keys are short.

Devoto et al., "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression", EMNLP 2024.
https://arxiv.org/abs/2406.11430

Across models and layers, keys with a small norm attract attention whatever the query is, so the norm alone ranks
entries, without any attention; it works beside kernels that never form attention. The authors leave the first two
layers whole when they model language: ``skip=2``.
"""

from __future__ import annotations

from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.evict import evict
from ..parts.votes import votes
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression",
    url="https://arxiv.org/abs/2406.11430",
    needs=(),
    cost="a norm of every key, a sort of n",
    vectors=("knorm",),
)
class Knorm:
    """Eviction of long keys."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each KV head keeps")
    skip: int = option(0, Range(0, kind=int), "how many first layers are left whole")

    def score(self, entries: Entries) -> Tensor:
        """entries.keys (B, g, n, d) -> (B, g, n), higher is kept."""
        return votes(entries, "small_keys")

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        return evict(self.score(entries), self.keep if entries.layer >= self.skip else 1.0, entries)
