"""PrefixKV: every layer keeps as long a prefix of its entries, most important first, as a shared coverage asks for.

Wang et al., "PrefixKV: Adaptive Prefix KV Cache is What Vision Instruction-Following Models Need for Efficient
Generation", 2024.
https://arxiv.org/abs/2412.03409

Layers differ in how many entries carry most of the attention. One coverage for all of them, found by bisection so that
the sizes meet the budget, spends it where it is needed. ``shares`` lists what each layer keeps, from calibration
(``parts.allocate_prefix``); without, every layer keeps the same. Importance is the attention an entry received,
summed over queries and averaged over heads; all heads keep the same, the first entries and the last one among them.

``dropped`` tells which entry leaves while decoding goes on: as published, one at a fixed place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..method import Keep, Many, Range, method, option
from ..parts.evict import evict
from ..parts.evict_heads import place, received
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="PrefixKV: Adaptive Prefix KV Cache is What Vision Instruction-Following Models Need for Efficient "
    "Generation",
    url="https://arxiv.org/abs/2412.03409",
    systems=("S074",),
    needs=("received|queries",),
    cost="a sort of n, once the attention received is known; the sizes come from calibration",
    vectors=("prefixkv",),
)
class PrefixKV:
    """Eviction with calibrated sizes of layers."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each layer keeps")
    shares: tuple[float | int, ...] | None = option(None, Many(Keep()), "what each layer keeps, in place of keep")
    sinks: int = option(1, Range(0, kind=int), "how many first entries are always kept")
    distance: int = option(-25, Range(kind=int), "where the entry stands that leaves at a step, below 0 from the end")

    def size(self, entries: Entries) -> float | int:
        """Share or number of entries that this layer keeps."""
        if self.shares is None:
            return self.keep
        if len(self.shares) != entries.layers:
            raise InputError(f"prefixkv was given {len(self.shares)} shares for {entries.layers} layers")
        return self.shares[entries.layer]

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), the same for all heads; higher is kept."""
        mean = received(entries).mean(1, keepdim=True)
        at = place(entries)[:, None]
        score = torch.where((at >= 0) & (at < self.sinks), 1e30, mean)
        return torch.where(at == at[..., -1:], 2e30, score).expand(entries.keys.shape[:3])

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        return evict(self.score(entries), self.size(entries), entries)

    def dropped(self, held: int, seen: int, share: float, kept: int) -> int | None:
        """While decoding: which of ``held`` entries leaves when ``seen`` tokens were seen and a layer keeps a share.

        kept: how many entries of the prompt the layer kept; the place follows from it and stays the same.
        """
        if int(held - seen * share) < 1:
            return None
        at = self.distance if self.distance > 0 else kept + self.distance
        return at if at >= 1 else kept // 2
