"""VL-Cache: layers get a budget by how sparse their attention is, and the words after the picture choose the tokens.

Tu et al., "VL-Cache: Sparsity and Modality-Aware KV Cache Compression for Vision-Language Model Inference
Acceleration", ICLR 2025.
https://arxiv.org/abs/2410.23317

Visual tokens attend evenly and say little about what matters; the words that follow them attend as the answer will.
Only their attention counts ("post-vision"). It is sparse to a different degree in every layer: where more of it lies
above ``part`` of the largest number of its row, more is kept. Once all layers were read, the mean budget is shared out
in proportion, each layer within [``low``, 1]. Entries rank by the attention they received from those words, and a
``recent`` part of a layer's budget goes to the latest ones.

Without visual tokens, or words after them, the ``last`` queries of the prompt ask. Rows of a batch have budgets of
their own. A layer asked alone, as ``reduce`` does, keeps the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.evict_heads import evict_each
from ..parts.pooled_budget import number_kept
from ..parts.votes import complete, given
from ..parts.window_rows import per_head, sparsity, window_rows
from ..reduction import Reduction
from ..tokens import Entries


class Weighed(NamedTuple):
    """Of one layer: score (B, g, n), density (B,) of the attention, and entries with nothing but who is there."""

    score: Tensor
    density: Tensor
    entries: Entries


@method(
    title="VL-Cache: Sparsity and Modality-Aware KV Cache Compression for Vision-Language Model Inference Acceleration",
    url="https://arxiv.org/abs/2410.23317",
    needs=("queries",),
    cost="attention of the words after the picture, a sort of n",
)
class VLCache:
    """Post-vision attention with budgets by sparsity."""

    keep: float | int = option(0.1, Keep(), "share (float) or number (int) of entries kept, mean over the layers")
    part: float = option(0.01, Range(0, 1), "share of a row's largest attention below which an entry counts as unread")
    recent: float = option(0.1, Range(0, 1), "part of a layer's budget for the latest entries")
    low: float = option(0.01, Range(0, 1), "least share that a layer keeps")
    last: int = option(32, Range(1, kind=int), "queries that ask where no words follow a picture")

    def asking(self, entries: Entries) -> Tensor:
        """(B, w) bool: which of the last w queries (B, H, w, d) are words after the last visual token."""
        w = given(entries, "queries").shape[2]
        if entries.visual is None:
            words = torch.zeros(len(entries.keys), w, dtype=torch.bool, device=entries.keys.device)
        else:
            seen = entries.visual.flip(-1).cumsum(-1).flip(-1) == 0
            words = (seen & entries.visual.any(-1, keepdim=True))[:, entries.n - w :]
        newest = torch.arange(w, device=words.device) >= w - self.last
        return torch.where(words.any(-1, keepdim=True), words, newest)

    def weigh(self, entries: Entries) -> Weighed:
        """What of a layer is needed once all layers were read."""
        queries, asking = given(entries, "queries"), self.asking(entries)
        w = int(asking.flip(-1).cumsum(-1).argmax(-1).max()) + 1  # no earlier query asks in any row
        rows = window_rows(entries, queries[:, :, queries.shape[2] - w :])
        rows = rows * asking[:, None, asking.shape[1] - w :, None]
        score = per_head(rows.sum(2), entries.keys.shape[1])
        thin = Entries(entries.keys[..., :0], entries.values[..., :0], valid=entries.valid, held=entries.held)
        return Weighed(score, 1 - sparsity(rows, self.part), thin)

    def settle(self, layers: Sequence[Weighed]) -> list[Reduction]:
        """The map of each layer, rows are batch x KV head: (B * g, n) -> selection."""
        density = torch.stack([w.density for w in layers])  # (L, B)
        return [self._cut(w, share) for w, share in zip(layers, density / density.mean(0).clamp(min=1e-9))]

    def reduce(self, entries: Entries) -> Reduction:
        """The same for one layer alone."""
        return self.settle([self.weigh(entries)])[0]

    def _cut(self, layer: Weighed, share: Tensor) -> Reduction:
        """share (B,): this layer's budget as a multiple of the mean budget."""
        b, g, n = layer.score.shape
        m = number_kept(self.keep, n)
        share = share if m < n else torch.ones_like(share)
        counts = (share * m + 1e-4).floor().clamp(max(1, min(int(self.low * n), m)), n).long()
        score = [complete(s[None, :, : n - int(self.recent * int(c))], n) for s, c in zip(layer.score, counts)]
        return evict_each(torch.cat(score), counts[:, None].expand(b, g), layer.entries)
