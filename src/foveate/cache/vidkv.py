"""VidKV: the cache of a video in about one and a half bits, each channel of it by itself.

Tao et al., "Plug-and-Play 1.x-Bit KV Cache Quantization for Video Large Language Models", 2025.
https://arxiv.org/abs/2503.16257

Keys: the channels that span most get two bits, the spectrum of the others along the channels one. Values: three values,
and two bits for the ``protect`` share of visual entries that the prompt's last queries agree with most (the authors
compare embeddings of patches and text). Entries are coded in groups of ``group`` tokens, the rest waits whole.

``variant="code"`` is the published code: it forgets the sign of one bit and the scale of three values when it reads
them back, stores both halves of the spectrum although they mirror each other, and its number of wide channels is 32
where the share comes to none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SignalError
from ..method import OneOf, Range, method, option
from ..stores.compact import Compact, Halves
from ..stores.mixed import Mixed
from ..stores.packed import Grid, Signs, Tile, filled
from ..stores.spectral import Spectral, widest
from ..stores.stream import Coder, Stream, Stretch
from ..tokens import Entries


@method(
    title="Plug-and-Play 1.x-Bit KV Cache Quantization for Video Large Language Models",
    url="https://arxiv.org/abs/2503.16257",
    systems=("S083",),
    needs=("queries",),
    cost="a Fourier transform of each key's channels, means of each group",
    vectors=("vidkv",),
)
class VidKV:
    """Quantisation below two bits."""

    bits: float = option(1.58, OneOf((1, 1.58, 2)), "bits of a value's number")
    key_bits: float = option(1.5, Range(1, 2), "bits of a key's number: 1 and the share of channels that get 2")
    group: int = option(32, Range(1, kind=int), "consecutive tokens that share a scale in each channel")
    protect: float = option(0.0, Range(0, 1), "share of visual entries whose values get two bits")
    variant: str = option("paper", OneOf(("paper", "code")), "the paper's rule, or the published code with its slips")

    def wide(self, d: int) -> int:
        """How many of d key channels get two bits."""
        k = int(d * (self.key_bits - 1))
        return k if k or self.key_bits == 1 else min(d, 32 if self.variant == "code" else 1)

    def coder(self, bits: float) -> Coder:
        """Of values."""
        tile = Tile(self.group, 1)
        return Signs(bits, tile, self.variant == "code") if bits < 2 else Grid(bits, tile)

    def key_coder(self, keys: Tensor) -> Coder:
        """Of keys (B, g, n, d)."""
        whole = keys.shape[2] // self.group * self.group or keys.shape[2]
        hard = widest(keys[:, :, :whole], self.wide(keys.shape[3]))
        if self.key_bits == 2:
            return Grid(2, Tile(self.group, 1))
        return Spectral(hard, self.group, self.variant == "code")

    def protected(self, relevance: Tensor) -> Tensor:
        """relevance (B, n) -> (B, n) bool: the most relevant entries, equally many in each row.

        The code rounds their number down to a multiple of 32, but not to none, and then loses the last 32 of them.
        """
        n = relevance.shape[1]
        k = int(n * self.protect)
        if self.variant == "code" and self.protect:
            k = min(n, max(32, k // 32 * 32))
        best = relevance.float().argsort(dim=-1, stable=True, descending=True)[:, :k].sort(-1).values
        if self.variant == "code":
            best = best[:, : max(0, k - 32)]
        return torch.zeros_like(relevance, dtype=torch.bool).scatter(1, best, True)

    def relevance(self, entries: Entries, n: int) -> Tensor:
        """(B, n): mean product of the first n entries' keys with the queries, over the visual ones."""
        if entries.queries is None:
            raise SignalError("vidkv with 'protect' needs the queries (B, H, w, d) of the last prompt tokens")
        asked = entries.queries.float().mean(2).unflatten(1, (entries.keys.shape[1], -1)).mean(2)  # (B, g, d)
        score = torch.einsum("bgd,bgnd->bn", asked, entries.keys[:, :, :n].float())
        for mask in (entries.visual, entries.valid):
            score = score if mask is None else score.masked_fill(~mask[:, :n], -torch.inf)
        return score

    def pack(self, entries: Entries) -> Compact:
        """Keys and values (B, g, n, d), compressed."""
        keys, values = filled(entries.keys, entries.valid), filled(entries.values, entries.valid)
        first, n = None, entries.n // self.group * self.group
        if self.protect and n and self.bits < 2:
            first = self.guarded(values[:, :, :n], self.protected(self.relevance(entries, n)))
        coder = self.coder(self.bits)
        return Halves(
            Stream(keys, self.key_coder(keys), step=self.group), Stream(values, coder, step=self.group, first=first)
        )

    def guarded(self, values: Tensor, protected: Tensor) -> Stretch:
        """values (B, g, n, d) and protected (B, n) -> the stretch with two bits for some."""
        mask = protected[:, None].expand(-1, values.shape[1], -1)
        return Mixed.stretch(values, mask, self.coder(2), self.coder(self.bits))
