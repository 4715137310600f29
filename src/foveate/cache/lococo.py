"""LoCoCo: keep heavy hitters whole, and blend all other entries into a few slots.

Cai et al., "LoCoCo: Dropping In Convolutions for Long Context Compression", ICML 2024.
https://arxiv.org/abs/2406.05317

Convolutions over keys and values give, for each slot, a share of every entry that is not kept whole; a learned scalar
mixes that with the slot's own heavy hitter, so that training starts from plain eviction. Without trained convolutions
(``blended`` takes them) the scalar is 0 and that is what happens: the latest entries and those that received the most
attention stay. Keys are mixed after RoPE, as published. Slots stand among the whole entries, at their heavy hitter's
place; the authors list them behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.blend import Layer, blended, conv_weights
from ..parts.budget import floor_budget
from ..parts.evict import evict
from ..parts.evict_heads import place, received
from ..parts.select import top
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="LoCoCo: Dropping In Convolutions for Long Context Compression",
    url="https://arxiv.org/abs/2406.05317",
    systems=("S068",),
    needs=("received|queries",),
    training="light: convolutions and a scalar for each layer (it also runs without)",
    cost="a sort of n, once the attention received is known; with weights a convolution and a matrix of slots by n",
    vectors=("lococo",),
)
class LoCoCo:
    """Heavy hitters and blended slots."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head holds")
    local: int = option(4, Range(0, kind=int), "how many latest entries are among the whole ones")
    whole: float = option(0.5, Range(0, 1), "share of those held that are kept whole, where slots are blended")

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), higher is kept: the latest, then by attention received."""
        at = place(entries)[:, None]
        last = at[..., -1:] - self.local
        return torch.where(at > last, 1e30 + 1e28 * (at - last), received(entries))

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        return evict(self.score(entries), self.keep, entries)

    def blended(
        self,
        entries: Entries,
        convs: Sequence[Layer],
        blend: float | Tensor,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> Reduction:
        """The same number of entries with trained convolutions (their last has as many channels as there are slots)."""
        b, g, n = entries.keys.shape[:3]
        m = min(self.keep, n) if isinstance(self.keep, int) else floor_budget(self.keep, n)
        slots = int(m * (1 - self.whole))
        if m == n or not slots:
            return self.reduce(entries)
        score = self.score(entries).reshape(b * g, n)
        whole = top(score, m - slots)
        outside = torch.ones(b * g, n, dtype=torch.bool, device=score.device).scatter(1, whole, False)
        rest = outside.nonzero()[:, 1].view(b * g, -1)
        x = torch.cat([entries.keys, entries.values], -1).flatten(0, 1)
        x = x.gather(1, rest[..., None].expand(-1, -1, x.shape[-1]))
        heavy = top(score.gather(1, rest), slots)
        return blended(whole, rest, heavy, conv_weights(x, convs, activation), blend, n)
