"""MiKV: nothing is evicted; what an eviction would drop stays in few bits.

Yang et al., "No Token Left Behind: Reliable KV Cache Compression via Importance-Aware Mixed Precision Quantization",
2024.
https://arxiv.org/abs/2402.18096

The entries with the most summed attention stay as they are or in ``bits``, the newest among them; the others are
quantised token by token in ``low_bits``. Some channels of queries and keys are far larger than others, which would
spoil a token's scale: keys are multiplied, channel by channel, by sqrt(max |q| / max |k|) first and divided by it when
read.

Tokens that are generated are low in bits once they leave the window of the ``recent`` newest (the authors rank them
again at every step). No authors' code was found.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SignalError
from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.select import top
from ..reduction import Reduction
from ..stores.coders import Plain, Scaled
from ..stores.compact import Compact, Halves
from ..stores.mixed import Mixed
from ..stores.packed import filled, per_token, small
from ..stores.stream import Coder, Stream
from ..tokens import Entries


@method(
    title="No Token Left Behind: Reliable KV Cache Compression via Importance-Aware Mixed Precision Quantization",
    url="https://arxiv.org/abs/2402.18096",
    systems=("S086",),
    needs=("queries", "received"),
    cost="attention of the whole prompt (the signal received), a sort of n",
)
class MiKV:
    """Two precisions by summed attention."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of entries each KV head keeps precise")
    bits: int = option(16, OneOf((4, 8, 16)), "bits of a precise entry's number; 16 leaves it as it is")
    low_bits: int = option(2, OneOf((2, 3, 4)), "bits of the others")
    group: int = option(64, Range(1, kind=int), "channels that share a scale")
    recent: int = option(32, Range(0, kind=int), "newest entries, which are among the precise ones")

    def balance(self, entries: Entries) -> Tensor:
        """(B, g, 1, d): what keys are divided by, from queries (B, H, w, d)."""
        if entries.queries is None:
            raise SignalError("mikv needs the queries (B, H, w, d) of the prompt; they are None")
        asked = entries.queries.float().abs().amax(2).unflatten(1, (entries.keys.shape[1], -1)).amax(2)
        keys = filled(entries.keys, entries.valid).float().abs().amax(2)
        ratio = (keys / asked).sqrt()
        return torch.where(torch.isfinite(ratio) & (ratio > 0), ratio, 1)[:, :, None].to(small(entries.keys))

    def important(self, entries: Entries, n: int, k: int) -> Tensor:
        """(B, g, n) bool: the k of the first n entries with the most attention."""
        if entries.received is None:
            raise SignalError("mikv needs the attention received by each entry; it is None")
        score = entries.received[..., :n].float().unflatten(1, (entries.keys.shape[1], -1)).sum(2)
        if entries.valid is not None:
            score = score.masked_fill(~entries.valid[:, None, :n], -torch.inf)
        b, g, _ = score.shape
        return Reduction.take(top(score.reshape(b * g, n), k), n).kept.view(b, g, n)

    def pack(self, entries: Entries) -> Compact:
        """Keys and values (B, g, n, d), compressed."""
        n = entries.n - min(self.recent, entries.n)
        chosen = self.important(entries, n, max(0, budget(self.keep, entries.n) - self.recent)) if n else None
        sides = []
        for x, factor in ((entries.keys, self.balance(entries)), (entries.values, None)):
            x = filled(x, entries.valid)
            high, low = self.coder(self.bits, factor), self.coder(self.low_bits, factor)
            first = None if chosen is None else Mixed.stretch(x[:, :, :n], chosen, high, low)
            sides.append(Stream(x, low, hold=self.recent, first=first))
        return Halves(*sides)

    def coder(self, bits: int, factor: Tensor | None) -> Coder:
        """Of entries in that many bits."""
        if bits == 16:
            return Plain()
        inner = per_token(bits, self.group, None if factor is None else factor.dtype)
        return inner if factor is None else Scaled(inner, factor)
