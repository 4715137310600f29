"""FINCH: keep the cached tokens that the question at the end of the prompt asks for.

Corallo and Papotti, "FINCH: Prompt-guided Key-Value Cache Compression for Large Language Models", TACL 2024.
https://arxiv.org/abs/2408.00167

The question's attention rates the document before it. A later token of the question sees more entries, so its attention
is thinner; each row is multiplied by the number of entries it sees before the rows are averaged. The question itself
stays. With ``chunk`` every stretch of that many tokens keeps its own share, as a document read piece by piece does.
``window`` is the length of the question.

Departures: the toolkit's code counts one entry too few for each row (``variant="code"``); the paper reads a piece
together with what was kept of the pieces before it, here all is read first; and the paper moves the keys that stay to
consecutive positions (:func:`foveate.parts.rotary.turn` does it), here they keep their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.evict import evict
from ..parts.padding import unpadded
from ..parts.pooled_budget import number_kept
from ..parts.score import attention_rows, causal_tail
from ..parts.select import top
from ..parts.votes import complete, last_queries
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="FINCH: Prompt-guided Key-Value Cache Compression for Large Language Models",
    url="https://arxiv.org/abs/2408.00167",
    needs=("queries",),
    cost="attention of the question's queries, a sort of n",
    vectors=("finch",),
)
class Finch:
    """Eviction guided by the question."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head keeps")
    window: int = option(64, Range(1, kind=int), "how many last tokens are the question; they are always kept")
    counts: bool = option(True, OneOf((True, False)), "multiply a row by how many entries it sees")
    chunk: int | None = option(None, Range(1, kind=int), "tokens of a stretch that keeps its own share; None: all")
    variant: str = option("paper", OneOf(("paper", "code")), "code: count one entry too few")

    def votes(self, entries: Entries) -> Tensor:
        """entries.queries (B, H, w, d), entries.keys (B, g, n, d) -> (B, g, n - w). No padding."""
        queries, (b, g, n) = last_queries(entries, self.window), entries.keys.shape[:3]
        w = queries.shape[2]
        if not w:
            return torch.zeros(b, g, n, device=entries.keys.device)
        rows = attention_rows(queries, entries.keys, entries.scaling, causal_tail(w, n, queries.device))[..., : n - w]
        if self.counts:
            seen = torch.arange(n - w, n, device=rows.device) + int(self.variant == "paper")
            rows = rows * seen[:, None]
        return rows.mean(2).view(b, g, -1, n - w).mean(2)

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), higher is kept."""
        return unpadded(lambda e: complete(self.votes(e), e.n), entries)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        score = self.score(entries)
        if self.chunk is None:
            return evict(score, self.keep, entries)
        share = self.keep if isinstance(self.keep, float) else min(1.0, self.keep / entries.n)
        stretches = score.flatten(0, 1).split(self.chunk, -1)
        kept = [self.chunk * i + top(s, number_kept(share, s.shape[-1])) for i, s in enumerate(stretches)]
        return Reduction.take(torch.cat(kept, -1), entries.n)
