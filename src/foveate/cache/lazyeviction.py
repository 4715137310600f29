"""LazyEviction: evict now and then, and keep what attention keeps coming back to.

Zhang et al., "LazyEviction: Lagged KV Eviction with Attention Pattern Observation for Efficient Long Reasoning", 2025.
https://arxiv.org/abs/2506.15969

In long reasoning a token may rest for many steps and matter again. For every entry the longest pause between two steps
that found it important is remembered; every ``window`` steps, those leave that have been away for longer than they ever
were, and the latest ``window`` entries stay.

``parts.recurrence.Recurrence`` follows the steps of decoding; ``reduce`` looks at the queries of the last ``window``
steps at once, after a prompt those of its last tokens, where the authors evict nothing. A KV head finds important what
any of its query heads does. Scores tie often: attention within the window then decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SignalError
from ..method import Keep, Range, method, option
from ..parts.evict import evict
from ..parts.evict_heads import place
from ..parts.recurrence import observed
from ..parts.score import attention_rows, causal_tail
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="LazyEviction: Lagged KV Eviction with Attention Pattern Observation for Efficient Long Reasoning",
    url="https://arxiv.org/abs/2506.15969",
    systems=("S076",),
    needs=("queries",),
    cost="attention of the window's queries, a sort of n",
    vectors=("lazyeviction",),
)
class LazyEviction:
    """Eviction by recurrence of attention."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each KV head keeps")
    window: int = option(32, Range(1, kind=int), "steps between evictions, and latest entries that always stay")
    alpha: float = option(0.001, Range(0, 1), "attention from which a step finds an entry important")

    def pinned(self, score: Tensor, at: Tensor) -> Tensor:
        """Score (..., n) with the latest ``window`` entries above all others. at: place of each entry in its row."""
        last = at[..., -1:] - self.window
        return torch.where(at > last, 1e9 + (at - last), score)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        if entries.queries is None:
            raise SignalError("lazyeviction needs the queries (B, H, w, d) of the last tokens; they are None")
        b, g, n = entries.keys.shape[:3]
        w = min(self.window, n, entries.queries.shape[2])
        mask = causal_tail(w, n, entries.keys.device)
        if entries.valid is not None:
            mask = mask & entries.valid[:, None, None]
        q = entries.queries[:, :, entries.queries.shape[2] - w :]
        rows = attention_rows(q, entries.keys, entries.scaling, mask).nan_to_num(0.0)
        rows = rows.view(b, g, -1, w, n).amax(2)
        score = observed(rows >= self.alpha).score() + 1e-6 * rows.mean(-2)
        return evict(self.pinned(score, place(entries)[:, None]), self.keep, entries)
