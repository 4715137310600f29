"""KVCrush: spend a part of the budget on representatives of what importance alone would drop.

Jha et al., "KVCrush: Key value cache size-reduction using similarity in head-behaviour", 2025.
https://arxiv.org/abs/2503.00022

Most of the budget goes to the most important entries, here those that a window at the end of the prompt looks at. The
others get a signature, one bit for each head: whether it finds the token among its better half. Sorted by how far
their signature is from an anchor, every so many-th of them is kept. All heads keep the same.

The production code works on blocks of a cache, with one bit for each token of a block (``parts.signatures``); there as
here candidates at the same distance stay in order.
"""

from __future__ import annotations

import torch

from ..errors import SignalError
from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import floor_budget
from ..parts.score import attention_rows, causal_tail, pin
from ..parts.select import top
from ..parts.signatures import ANCHORS, anchor_bits, better_half, hamming, spaced
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="KVCrush: Key value cache size-reduction using similarity in head-behaviour",
    url="https://arxiv.org/abs/2503.00022",
    systems=("S077",),
    needs=("queries",),
    cost="attention of the window's queries, a sort of n for each head",
    vectors=("kvcrush",),
)
class KVCrush:
    """Important entries and representatives of the rest."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head keeps")
    crush: float = option(0.25, Range(0, 1), "share of those that represent what importance would drop")
    window: int = option(32, Range(1, kind=int), "how many last queries vote; their entries are always kept")
    anchor: str = option("mean", OneOf(ANCHORS), "what signatures are compared with")

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m, the same in all heads."""
        if entries.queries is None:
            raise SignalError("kvcrush needs the queries (B, H, w, d) of the last prompt tokens; they are None")
        b, g, n = entries.keys.shape[:3]
        m = min(self.keep, n) if isinstance(self.keep, int) else floor_budget(self.keep, n)
        w = min(self.window, n - 1, entries.queries.shape[2])
        real = torch.ones(b, n, dtype=torch.bool, device=entries.keys.device)
        real = real if entries.valid is None else entries.valid
        votes = torch.zeros(b, entries.queries.shape[1], n - w, device=real.device)
        if w:
            mask = causal_tail(w, n, real.device) & real[:, None, None]
            q = entries.queries[:, :, entries.queries.shape[2] - w :]
            votes = attention_rows(q, entries.keys, entries.scaling, mask).nan_to_num(0.0)[..., : n - w].mean(2)
        score = pin(votes.mean(1, keepdim=True), w)[:, 0].masked_fill(~real, -torch.inf)
        r = int(self.crush * m)
        heavy = top(score, m - r)
        left = real & ~torch.zeros_like(real).scatter(1, heavy, True)
        bits = better_half(torch.cat([votes, votes.new_zeros(*votes.shape[:2], w)], -1), real[:, None]).mT
        pads = ~real & torch.ones_like(real).scatter(1, heavy, False)
        chosen = spaced(hamming(bits, anchor_bits(bits, self.anchor, left)), left, r, pads)
        return Reduction.take(torch.cat([heavy, chosen], 1).repeat_interleave(g, 0), n)
