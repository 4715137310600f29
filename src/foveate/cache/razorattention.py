"""RazorAttention: heads that retrieve keep the whole cache, the others both ends and the mean of what they drop.

Tang et al., "RazorAttention: Efficient KV Cache Compression Through Retrieval Heads", ICLR 2025.
https://arxiv.org/abs/2407.15891

Few heads read remote tokens: those that attend to earlier copies of a token (echo) or to what followed them
(induction), as told by a random text repeated a few times (``parts.retrieval_heads.repeated``, ``at_least``). Give
their scores as ``gates``, layer after layer; without, the heads of each layer whose last queries look beyond both ends
the most count as such. In the others one compensation entry, the mean of all dropped ones, follows the sinks.

In the paper that entry counts as often as entries were dropped; here, as in the authors' code, once.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from ..method import Keep, Many, OneOf, Range, method, option
from ..parts.budget import floor_budget
from ..parts.evict_heads import ends, evict_each, place
from ..parts.retrieval_heads import far, highest, layer_of
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="RazorAttention: Efficient KV Cache Compression Through Retrieval Heads",
    url="https://arxiv.org/abs/2407.15891",
    systems=("S067",),
    needs=("queries",),
    cost="attention of the window's queries (none with scores of the heads), one mean",
    vectors=("razorattention",),
)
class RazorAttention:
    """Full heads, and heads of both ends with a compensation entry."""

    pieces = "end"  # a mean of means would weigh the latest most

    full: float = option(0.15, Range(0, 1), "share of KV heads that keep everything, rounded up")
    local: float | int = option(0.2, Keep(), "share (float) or number (int) of entries that the other heads hold")
    sinks: int = option(4, Range(0, kind=int), "how many of those are the first ones")
    compensate: bool = option(True, OneOf((True, False)), "whether one of those is the mean of what was dropped")
    window: int = option(64, Range(1, kind=int), "how many last queries judge the heads where no gates are given")
    gates: tuple[float, ...] | None = option(None, Many(Range(-1e9, 1e9)), "score of each KV head, layer after layer")

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> map, of different length in the two kinds of heads."""
        b, g, n = entries.keys.shape[:3]
        m = min(self.local, n) if isinstance(self.local, int) else floor_budget(self.local, n)
        if self.gates is not None:
            count = ceil(self.full * len(self.gates))
            whole = layer_of(self.gates, entries, count, clip=False).expand(b, g)
        else:
            whole = highest(far(entries, self.sinks, m - self.sinks), ceil(self.full * g))
        score = ends(entries, self.sinks)
        if m == n or not self.compensate:
            return evict_each(score, torch.where(whole, n, m), entries)
        at = place(entries)[:, None]
        if self.sinks < m:  # the first entry after the sinks gives its place to the mean
            score = torch.where(at == self.sinks, n + 0.5, score)
        else:
            score = torch.where(at == m - 1, 3.0 * n, score)
        out = evict_each(score, torch.where(whole, n, m), entries)
        return _averaged(out, (at == min(self.sinks, m - 1)).expand(b, g, n).reshape(b * g, n), entries)


def _averaged(out: Reduction, mean: Tensor, entries: Entries) -> Reduction:
    """What a selection drops is averaged into the slot of the entry marked in mean (B * g, n), itself included."""
    b, g, n = entries.keys.shape[:3]
    real = torch.ones(b, n, dtype=torch.bool, device=mean.device) if entries.valid is None else entries.valid
    real = real.repeat_interleave(g, 0)
    slot = (out.assign * mean).sum(-1, keepdim=True).expand(b * g, n)
    held = (mean & out.kept).any(-1, keepdim=True)
    gone = real & held & ((out.assign < 0) | mean)
    gone = gone & ((out.assign < 0) & real).any(-1, keepdim=True)
    assign = torch.where(gone, slot, out.assign)
    weight = torch.where(gone, 1 / gone.sum(-1, keepdim=True).clamp(min=1).float(), out.weight)
    return Reduction(out.keep, assign, weight * (assign >= 0))
