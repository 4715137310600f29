"""StreamingLLM: keep the first few cached tokens (attention sinks) and the most recent ones.

Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024.
https://arxiv.org/abs/2309.17453

Models park attention they do not need on the first tokens; dropping those breaks generation, keeping them and a recent
window does not. Nothing is computed from the data. Keys keep the RoPE phase of their original position. With ``every``
the window moves on while tokens are generated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.evict import evict
from ..parts.evict_heads import place
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Efficient Streaming Language Models with Attention Sinks",
    url="https://arxiv.org/abs/2309.17453",
    needs=(),
    cost="none",
    vectors=("streaming_llm",),
)
class StreamingLLM:
    """Sinks and a recent window."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head keeps")
    sinks: int = option(4, Range(0, kind=int), "how many first entries are always kept")
    every: int | None = option(None, Range(1, kind=int), "ask again after so many generated tokens; None: once")

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), higher is kept: sinks first, then the latest."""
        b, g, n = entries.keys.shape[:3]
        at = place(entries)
        return torch.where(at < self.sinks, n - at / n, at)[:, None].expand(b, g, n).float()

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        return evict(self.score(entries), self.keep, entries)
