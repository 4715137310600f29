"""DuoAttention: heads that retrieve keep the whole cache, the others only the first and the latest entries.

Xiao et al., "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads", ICLR 2025.
https://arxiv.org/abs/2410.10819

A gate for each KV head is learned by mixing full attention with that of both ends and penalising the first; heads with
low gates lose nothing when the middle is gone. ``gates`` lists them layer after layer. Without gates the heads of each
layer whose last queries look beyond both ends the most are full, which is ours, not the paper's. Keys keep the rotary
phase of their original position. ``rule="quantile"`` counts the full heads as the authors' code does; equal gates are
taken by position instead of by noise. The prompt itself is read with whole attention in all heads.
"""

from __future__ import annotations

import torch

from ..method import Many, OneOf, Range, method, option
from ..parts.evict_heads import ends, evict_each
from ..parts.retrieval_heads import far, full_count, highest, layer_of
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads",
    url="https://arxiv.org/abs/2410.10819",
    systems=("S075",),
    needs=("queries",),
    training="light: a gate for each KV head (it also runs without)",
    cost="none with gates; else attention of the window's queries",
    vectors=("duo_attention", "duoattention_kvpress"),
)
class DuoAttention:
    """Full heads and heads of both ends."""

    full: float = option(0.5, Range(0, 1), "share of KV heads that keep everything")
    sinks: int = option(64, Range(0, kind=int), "how many first entries the other heads keep")
    recent: int = option(256, Range(1, kind=int), "how many latest entries the other heads keep")
    window: int = option(64, Range(1, kind=int), "how many last queries judge the heads where no gates are given")
    gates: tuple[float, ...] | None = option(None, Many(Range(-1e9, 1e9)), "gate of each KV head, layer after layer")
    rule: str = option("round", OneOf(("round", "quantile")), "how the number of full heads follows from their share")

    @property
    def pieces(self) -> str:
        """When it is asked while a prompt is read in pieces: which heads are full must not change on the way."""
        return "end" if self.gates is None else "held"

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection, of different length in the two kinds of heads."""
        b, g, n = entries.keys.shape[:3]
        if self.gates is not None:
            whole = layer_of(self.gates, entries, full_count(len(self.gates), self.full, self.rule)).expand(b, g)
        else:
            whole = highest(far(entries, self.sinks, self.recent), full_count(g, self.full, self.rule))
        counts = torch.where(whole, n, min(n, self.sinks + self.recent))
        return evict_each(ends(entries, self.sinks), counts, entries)
