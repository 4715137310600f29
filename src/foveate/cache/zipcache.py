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

from ..errors import SignalError
from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget, floor_budget
from ..parts.score import attention_rows
from ..parts.select import top
from ..reduction import Reduction
from ..stores.coders import Scaled
from ..stores.compact import Compact, Halves
from ..stores.mixed import Mixed
from ..stores.packed import Grid, Tile, filled, small
from ..stores.stream import Coder, Stream
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
        assert entries.queries is not None
        w = entries.queries.shape[2]
        r = floor_budget(self.probes, w) if isinstance(self.probes, float) else min(self.probes, w)
        newest = torch.arange(w - r, w)
        if w == entries.n:
            spread = torch.randperm(w - r, generator=torch.Generator().manual_seed(0))[:r]
            newest = torch.cat([spread.sort().values, newest])
        return newest.to(entries.queries.device)

    def saliency(self, entries: Entries, places: Tensor | None = None) -> Tensor:
        """(B, g, n): attention that each entry gets from the queries (B, H, w, d) at places (r,)."""
        if entries.queries is None:
            raise SignalError("zipcache needs the queries (B, H, w, d) of the prompt; they are None")
        places = self.places(entries) if places is None else places
        n, w = entries.n, entries.queries.shape[2]
        at, key = places + (n - w), torch.arange(n, device=places.device)
        seen = key <= at[:, None]  # (r, n)
        mask = seen if entries.valid is None else seen & entries.valid[:, None, None]
        rows = attention_rows(entries.queries[:, :, places], entries.keys, entries.scaling, mask).nan_to_num(0.0)
        total: Tensor = rows.sum(2).unflatten(1, (entries.keys.shape[1], -1)).sum(2)
        return total / ((n - key) if self.variant == "code" else seen.sum(0).clamp(min=1))

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
        keys, values = filled(entries.keys, entries.valid), filled(entries.values, entries.valid)
        salient, scales = self.salient(saliency, entries.valid), small(keys)
        factor = values.float().abs().amax(2, keepdim=True).sqrt()
        factor = torch.where(factor > 0, factor, 1).to(scales)
        sides = []
        for x, tile, divided in ((keys, Tile(0, 1), False), (values, Tile(1, 0), True)):
            pair: list[Coder] = [Grid(bits, tile, scales=scales) for bits in (self.bits, self.low_bits)]
            high, low = [Scaled(coder, factor) for coder in pair] if divided else pair
            sides.append(Stream(x, high, step=self.recent, first=Mixed.stretch(x, salient, high, low)))
        return Halves(*sides)
