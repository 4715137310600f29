"""LOOK-M: drop cached image entries first, and fold what is dropped into the most similar entry that stays.

Wan et al., "LOOK-M: Look-Once Optimization in KV Cache for Efficient Multimodal Long-Context Inference", 2024.
https://arxiv.org/abs/2406.18139

While a model reads a prompt it attends more to text than to images, so text entries are kept first, then those that
received the most attention; the latest ones stay in any case. Every dropped entry goes to the kept one whose key is
the most similar: averaged with it (``merge="mean"``), as halfway points ("pivot"), or shrunk by the similarity and only
where it is above average ("weighted"). Values follow their keys.

Departures from the authors' code: long texts do not exceed the budget, images are ranked among themselves, without
``text_first`` the first ``sinks`` entries stay as there, and the threshold of "weighted" is that of each row. Where a
prompt is read in pieces it is asked after the last one, as text is told from images in the whole prompt only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import floor_budget
from ..parts.evict import evict
from ..parts.evict_heads import place, received
from ..parts.merge_dropped import fold, nearest
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="LOOK-M: Look-Once Optimization in KV Cache for Efficient Multimodal Long-Context Inference",
    url="https://arxiv.org/abs/2406.18139",
    needs=("received|queries",),
    cost="a sort of n, and similarities of the keys dropped and kept",
    vectors=("lookm",),
    average=False,
    why="weighted merging shrinks what it folds in by its similarity",
)
class LOOKM:
    """Text-first eviction with merging."""

    pieces = "end"

    keep: float | int = option(0.2, Keep(), "share (float) or number (int) of entries each KV head keeps")
    recent: float | int = option(0.5, Keep(), "share (float) of those kept, or number (int), that are the latest ones")
    text_first: bool = option(True, OneOf((True, False)), "whether text entries go before image entries")
    sinks: int = option(4, Range(0, kind=int), "how many first entries stay where text does not go first")
    merge: str = option("pivot", OneOf(("pivot", "weighted", "mean", "none")), "what becomes of dropped entries")

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), higher is kept: the latest, then text (or the first), then by attention received."""
        n, score = entries.n, received(entries)
        m = min(self.keep, n) if isinstance(self.keep, int) else floor_budget(self.keep, n)
        recent = self.recent if isinstance(self.recent, int) else int(self.recent * m)
        at = place(entries)[:, None]
        if not self.text_first:
            score = torch.where((at >= 0) & (at < self.sinks), 1e20, score)
        elif entries.visual is not None:
            score = torch.where(entries.visual[:, None], score - 1e6, score)
        last = at[..., -1:] - recent
        return torch.where(at > last, 2e30 + 1e28 * (at - last), score)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> m, the others merged into them."""
        return self.merged(evict(self.score(entries), self.keep, entries), entries)

    def merged(self, out: Reduction, entries: Entries) -> Reduction:
        """The same selection with what it drops folded in. out: (B * g, n) -> m."""
        b, g, n = entries.keys.shape[:3]
        if self.merge == "none" or out.m == n:
            return out
        real = torch.ones(b, n, dtype=torch.bool, device=out.keep.device) if entries.valid is None else entries.valid
        real = real.repeat_interleave(g, 0)
        targets = out.gather(real) & out.valid
        slot, near = nearest(entries.keys.flatten(0, 1), out.keep.clamp(min=0), targets)
        gives = real & (out.assign < 0) & targets.any(-1, keepdim=True)
        whole, none = torch.ones_like(near), torch.zeros_like(near)
        if self.merge == "mean":
            return fold(out, slot, gives, whole, none)
        if self.merge == "pivot":
            return fold(out, slot, gives, whole / 2, whole / 2)
        return fold(out, slot, gives & self._similar(out, near, gives, b), near, none)

    def _similar(self, out: Reduction, near: Tensor, gives: Tensor, b: int) -> Tensor:
        """Which dropped tokens are, by the mean over heads, at least as similar to what stays as the row's average.

        Heads drop different tokens; the i-th dropped ones of all heads are judged together, as the code does.
        """
        rank = (gives.cumsum(-1) - 1).clamp(min=0)
        wide = int(gives.sum(-1).max()) + 1
        at = torch.where(gives, rank, wide - 1)
        table = near.new_zeros(len(near), wide).scatter(1, at, near)[:, : wide - 1]
        mean = table.view(b, -1, wide - 1).mean(1)  # (B, dropped)
        count = gives.sum(-1).view(b, -1).amax(-1).clamp(min=1)
        chosen = mean >= mean.sum(-1, keepdim=True) / count[:, None]
        chosen = torch.cat([chosen, chosen.new_zeros(b, 1)], 1).repeat_interleave(len(near) // b, 0)
        return chosen.gather(1, at)
