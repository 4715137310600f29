"""KIVI: cached keys as two bits per channel, cached values as two bits per token, the newest of both whole.

Liu et al., "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", ICML 2024.
https://arxiv.org/abs/2402.02750

A few channels of the keys are far larger than the others, at all tokens, so keys share scales along tokens, ``group``
of them at a time; values have no such channels and share scales along channels. New keys wait until ``recent`` of
them can be coded together, new values push the oldest one out of the window, one for one.

Groups of channels are counted across the heads, which is the same wherever a group fits into a head. A group of equal
numbers gets code 0 (the authors' code divides zero by zero there).
Below two bits numbers are stored by sign.
"""

from __future__ import annotations

from ..errors import OptionError
from ..method import OneOf, Range, method, option
from ..stores.bits import BITS
from ..stores.compact import Compact, Halves
from ..stores.packed import filled, per_channel, per_token
from ..stores.stream import Stream
from ..tokens import Entries


@method(
    title="KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache",
    url="https://arxiv.org/abs/2402.02750",
    needs=(),
    cost="minimum and maximum of each group",
    vectors=("kivi",),
)
class KIVI:
    """Keys per channel, values per token."""

    bits: float = option(2, OneOf(BITS), "bits of a key's number")
    value_bits: float = option(2, OneOf(BITS), "bits of a value's number")
    group: int = option(32, Range(1, kind=int), "tokens (keys) or channels (values) that share a scale")
    recent: int = option(128, Range(1, kind=int), "newest entries kept whole: at most so many keys, so many values")

    def __post_init__(self) -> None:
        if self.recent % self.group:
            raise OptionError(f"'recent' of kivi must be a multiple of its 'group', {self.group}. Got {self.recent!r}.")

    def pack(self, entries: Entries) -> Compact:
        """Keys and values (B, g, n, d), compressed."""
        keys = Stream(filled(entries.keys, entries.valid), per_channel(self.bits, self.group), step=self.recent)
        values = filled(entries.values, entries.valid)
        return Halves(keys, Stream(values, per_token(self.value_bits, self.group), hold=self.recent))
