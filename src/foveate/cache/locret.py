"""Locret: read the prompt in pieces, and after each keep what trained heads expect to matter.

Huang et al., "Locret: Enhancing Eviction in Long-Context LLM Inference with Trained Retaining Heads", TMLR 2025.
https://arxiv.org/abs/2410.01805

A small head in each layer predicts from query, key and value how important an entry will be
(``parts.retaining.RetainingHead``), so that eviction need not wait for later queries. The newest entries of a piece
stay for the sake of the next one, and the last tokens of the prompt are never evicted.

With ``foveate.apply(..., chunk=...)`` the prompt really is read in pieces of that length. Otherwise they follow from
the whole prompt's entries (``chunk`` of the method), and peak memory is that of a whole prefill. Without trained heads
the attention an entry received stands in for their answer.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.budget import floor_budget
from ..parts.evict_heads import received
from ..parts.retaining import survivors
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Locret: Enhancing Eviction in Long-Context LLM Inference with Trained Retaining Heads",
    url="https://arxiv.org/abs/2410.01805",
    systems=("S071",),
    needs=("received|queries",),
    training="light: a two-layer head for each layer (it also runs without)",
    cost="a sort of budget and piece for each piece, once importance is known",
    vectors=("locret",),
)
class Locret:
    """Eviction piece by piece."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head keeps")
    chunk: int = option(3072, Range(1, kind=int), "tokens of a piece")
    stable: int = option(2500, Range(0, kind=int), "newest entries that stay until the next piece is read")
    local: int = option(100, Range(0, kind=int), "last tokens of the prompt, which are never evicted")

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        return self.cut(received(entries), entries)

    def between(self, entries: Entries, total: int, last: bool) -> Locret:
        """The method after one piece of a prompt of ``total`` tokens: the newest entries stay until the last one."""
        keep = self.keep if isinstance(self.keep, int) else floor_budget(self.keep, total)
        local = self.local if last else max(self.local, self.stable)
        return replace(self, keep=keep, chunk=max(1, entries.n), local=local)

    def cut(self, score: Tensor, entries: Entries) -> Reduction:
        """The same from any importance (B, g, n), such as that of trained heads."""
        b, g, n = score.shape
        m = min(self.keep, n) if isinstance(self.keep, int) else floor_budget(self.keep, n)
        local = min(self.local, m)
        if entries.valid is not None:
            score = score.masked_fill(~entries.valid[:, None], -torch.inf)
        held = survivors(score.reshape(b * g, n)[:, : n - local], m - local, self.chunk, self.stable)
        last = torch.arange(n - local, n, device=held.device).expand(b * g, local)
        return Reduction.take(torch.cat([held, last], 1), n)
