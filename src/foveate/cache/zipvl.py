"""ZipVL: in every layer, as many cached tokens in more bits as hold nearly all of its attention.

He et al., "ZipVL: Efficient Large Vision-Language Models with Dynamic Token Sparsification and KV Cache Compression",
2024.
https://arxiv.org/abs/2410.08584

How many tokens matter differs with the layer and the task, so no ratio is fixed: the smallest number whose summed
attention reaches the share ``mass`` of all of it, taken token by token from the largest. Which ones they are is told by
attention divided by how many queries could see the token, so that early ones have no advantage. A few probe queries
stand for all, heads are averaged, and each row of a batch has its own number. Important entries are quantised in
``bits``, the others in ``low_bits``.

This is the cache part. The paper also lets the prompt attend to the important tokens alone while it is read, which a
map of the cache cannot do. New tokens wait whole until ``recent`` of them are coded, in the more bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.probes import probe_attention, probe_places
from ..stores.classes import two_classes
from ..stores.compact import Compact
from ..stores.packed import filled
from ..tokens import Entries


@method(
    title="ZipVL: Efficient Large Vision-Language Models with Dynamic Token Sparsification and KV Cache Compression",
    url="https://arxiv.org/abs/2410.08584",
    systems=("S081",),
    needs=("queries",),
    cost="attention of one query in ten, a sort of n",
)
class ZipVL:
    """Two precisions with a ratio of its own in every layer."""

    mass: float = option(0.975, Range(0, 1, open_low=True), "share of the attention that the important tokens hold")
    bits: int = option(4, OneOf((2, 3, 4, 8)), "bits of a number of an important entry")
    low_bits: int = option(2, OneOf((2, 3, 4)), "bits of the others")
    probes: float | int = option(0.05, Keep(), "share or number of queries that ask, and as many at random")
    recent: int = option(100, Range(1, kind=int), "new tokens that are coded together")

    def important(self, entries: Entries) -> Tensor:
        """(B, n) bool, at least one in each row that holds anything."""
        total, seen = probe_attention(entries, probe_places(entries, self.probes))
        mean = total.mean(1)  # (B, n)
        sorted_ = mean.sort(dim=-1, descending=True).values
        before = sorted_.cumsum(-1) - sorted_
        count = (before < self.mass * mean.sum(-1, keepdim=True)).sum(-1, keepdim=True).clamp(min=1)
        score = mean / seen.clamp(min=1)
        if entries.valid is not None:
            score = score.masked_fill(~entries.valid, -torch.inf)
        order = score.argsort(stable=True, dim=-1, descending=True)
        rank = torch.empty_like(order).scatter(1, order, torch.arange(entries.n, device=order.device).expand_as(order))
        return rank < count

    def pack(self, entries: Entries) -> Compact:
        """Keys and values (B, g, n, d), compressed."""
        keys, values = filled(entries.keys, entries.valid), filled(entries.values, entries.valid)
        important = self.important(entries)[:, None].expand(keys.shape[:3])
        return two_classes(keys, values, important, self.bits, self.low_bits, self.recent)
