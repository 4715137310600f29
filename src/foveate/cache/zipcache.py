"""ZipCache: cached entries that the prompt attends to in more bits, the others in fewer.

He et al., "ZipCache: Accurate and Efficient KV Cache Quantization with Salient Token Identification", NeurIPS 2024.
https://arxiv.org/abs/2405.14256

A few probe queries, the newest and some spread at random, tell how salient an entry is: the attention it gets, divided
by how many probes can see it, so that early entries have no advantage. Keys are quantised per channel, values per token
after each channel is divided by the square root of its largest number. Each class has scales of its own.

Here the random probes are always the same ones. New tokens wait whole until ``recent`` of them are coded, in the more
bits (the authors quantise everything anew then). After an eviction only the newest probes ask.
``variant="code"`` divides by the number of all queries, not probes, that can see an entry, as the published code does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.probes import probe_attention, probe_places
from ..parts.select import top
from ..reduction import Reduction
from ..stores.classes import two_classes
from ..stores.compact import Compact, Halves
from ..stores.packed import filled
from ..tokens import Entries


@method(
    title="ZipCache: Accurate and Efficient KV Cache Quantization with Salient Token Identification",
    url="https://arxiv.org/abs/2405.14256",
    systems=("S087",),
    needs=("queries",),
    cost="attention of one query in ten, a sort of n",
    vectors=("zipcache",),
)
class ZipCache:
    """Two precisions by normalised attention."""

    keep: float | int = option(0.6, Keep(), "share (float) or number (int) of entries in the more bits")
    bits: int = option(4, OneOf((2, 3, 4, 8)), "bits of a number of a salient entry")
    low_bits: int = option(2, OneOf((2, 3, 4)), "bits of the others")
    probes: float | int = option(0.05, Keep(), "share or number of queries that ask, and as many at random")
    recent: int = option(100, Range(1, kind=int), "new tokens that are coded together")
    variant: str = option("paper", OneOf(("paper", "code")), "how attention is normalised")

    def places(self, entries: Entries) -> Tensor:
        """(r,) which of the queries ask."""
        return probe_places(entries, self.probes)

    def saliency(self, entries: Entries, places: Tensor | None = None) -> Tensor:
        """(B, g, n): attention that each entry gets from the queries (B, H, w, d) at places (r,)."""
        n = entries.n
        total, seen = probe_attention(entries, self.places(entries) if places is None else places)
        key = torch.arange(n, device=total.device)
        return total / ((n - key) if self.variant == "code" else seen.clamp(min=1))

    def salient(self, saliency: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, g, n) bool: the best of each head, padding last."""
        b, g, n = saliency.shape
        if valid is not None:
            saliency = saliency.masked_fill(~valid[:, None], -torch.inf)
        kept = Reduction.take(top(saliency.reshape(b * g, n), budget(self.keep, n)), n)
        return kept.kept.view(b, g, n)

    def pack(self, entries: Entries) -> Compact:
        """Keys and values (B, g, n, d), compressed."""
        return self.halves(entries, self.saliency(entries))

    def halves(self, entries: Entries, saliency: Tensor) -> Halves:
        """The same, given the saliency (B, g, n)."""
        salient = self.salient(saliency, entries.valid)
        keys, values = filled(entries.keys, entries.valid), filled(entries.values, entries.valid)
        return two_classes(keys, values, salient, self.bits, self.low_bits, self.recent)
