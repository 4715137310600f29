"""QuickVideo: cut each group of frames in the cache to its best entries, by default those with the smallest keys.

Schneider et al., "QuickVideo: Real-Time Long Video Understanding with System Algorithm Co-Design", 2025.
https://arxiv.org/abs/2505.16175

A long video is prefilled group by group, and in every layer a group's entries are cut right after its prefill, so the
cache never holds the whole video. Small keys attract attention whatever the query is; other scores are the size of the
values, both together, what the prompt asks for, and small keys that do not repeat each other. All heads keep the same.

Visual entries, in order, form groups of ``group`` tokens, the budget is a share of them that is spread evenly, and text
entries all stay. By default the cut comes after the prefill of the whole prompt; with ``foveate.apply(..., chunk=...)``
each piece is cut as soon as it was read, as in the paper, and later ones no longer see what went. Departures from the
authors' code: groups share the remainder of an uneven budget, and a layer whose decayed budget is zero keeps one entry
instead of all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SignalError
from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import floor_budget
from ..parts.kv_scores import asked, group_softmax, joint, unlike_pivots
from ..parts.quota import share_out
from ..reduction import Reduction
from ..tokens import Entries

SCORES = ("small_keys", "large_keys", "large_values", "keys_by_values", "small_keys_apart", "asked", "asked_by_values")


@method(
    title="QuickVideo: Real-Time Long Video Understanding with System Algorithm Co-Design",
    url="https://arxiv.org/abs/2505.16175",
    systems=("S036",),
    needs=("queries",),
    cost="norms of the keys and a sort of n; attention of the window's queries for the two scores that ask",
    vectors=("quickvideo", "quickvideo_kv"),
)
class QuickVideo:
    """Group-wise eviction by key norm."""

    pieces = "new"

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of visual entries each layer keeps")
    group: int = option(1568, Range(1, kind=int), "how many visual tokens form a group: frames x tokens of a frame")
    score: str = option("small_keys", OneOf(SCORES), "what makes an entry worth keeping; see above")
    window: int = option(64, Range(1, kind=int), "how many last queries of the prompt ask, where the score needs them")
    decay: str = option("none", OneOf(("none", "linear", "exponential")), "how the number shrinks with the layer")
    factor: float = option(0.8, Range(0, 1, open_low=True), "what is left from layer to layer if decay is exponential")

    def decayed(self, k: int, layer: int, layers: int) -> int:
        """How many of k entries are left in this layer."""
        if self.decay == "linear":
            return k - int(k * layer / layers)
        return int(k * self.factor**layer) if self.decay == "exponential" else k

    def worth(self, entries: Entries, group: Tensor, counts: Tensor) -> Tensor:
        """group (B, n), counts (B, G): how many entries each group keeps -> (B, n), higher is kept."""
        keys, groups = joint(entries.keys), counts.shape[1]
        if self.score == "small_keys_apart":
            return unlike_pivots(keys, group, counts)
        if self.score in ("small_keys", "large_keys"):
            norm: Tensor = keys.norm(dim=-1)
            return norm if self.score == "large_keys" else -norm
        size: Tensor = joint(entries.values).norm(dim=-1)
        if self.score == "large_values":
            return size
        if self.score == "keys_by_values":
            return size * group_softmax(keys.norm(dim=-1), group, groups)
        if entries.queries is None:
            raise SignalError(f"quickvideo with score={self.score!r} needs the queries of the last prompt tokens")
        queries = entries.queries[:, :, -self.window :]
        paid = asked(queries, entries.keys, entries.scaling, group, groups)
        return paid * size if self.score == "asked_by_values" else paid

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m, the same in all heads."""
        b, g, n = entries.keys.shape[:3]
        valid = torch.ones(b, n, dtype=torch.bool, device=entries.keys.device)
        valid = valid if entries.valid is None else entries.valid
        visual = valid if entries.visual is None else entries.visual & valid
        number, groups = visual.sum(-1), -(-n // self.group)
        group = torch.where(visual, (visual.cumsum(-1) - 1) // self.group, groups + (~valid).long())
        m = max(
            (self._left(v, t, entries) for v, t in zip(number.tolist(), (valid & ~visual).sum(-1).tolist())), default=0
        )
        sizes = group.new_zeros(b, groups + 2).scatter_add(1, group, torch.ones_like(group))
        claim = sizes.float().clamp(min=1)
        claim[:, groups], claim[:, groups + 1] = torch.inf, 1e-30  # text first, padding last
        flat = torch.zeros(b, n, device=group.device)
        counts = torch.zeros_like(sizes).scatter_add(1, group, share_out(flat, group, claim, m).long())
        score = self.worth(entries, group, counts).masked_fill(~valid, 0)
        kept = share_out(score, group, claim, m)
        return Reduction.from_mask(kept.repeat_interleave(g, 0))

    def _left(self, visual: int, others: int, entries: Entries) -> int:
        """Entries left of a row."""
        if entries.visual is None:
            visual, others = entries.n, 0
        k = min(self.keep, visual) if isinstance(self.keep, int) else floor_budget(self.keep, visual)
        return others + min(visual, max(1, self.decayed(k, entries.layer, entries.layers)))
