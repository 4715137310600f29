"""DELTA: a few layers read the whole cache and pick pages, the layers after them read only those; nothing is evicted.

Zarch et al., "DELTA: Dynamic Layer-Aware Token Attention for Efficient Long-Context Reasoning", 2025.
https://arxiv.org/abs/2510.09883

While a token is decoded, neighbouring layers look at much the same entries. The first layers attend to everything, as
do a few selection layers; each of these picks the pages its heads attend to most, and the newest ones, and the layers
up to the next one attend to these alone, exactly. What one token does not need, the next one may, so all is kept.

Selection layers are the paper's choice for a model (``select``); by default they are ``groups`` evenly spaced ones. The
prompt is read with whole attention. The sparse steps are those that decode one token of an unpadded batch on SDPA or
FlashAttention; other steps, and layers that an earlier method left with other tokens than their selection layer, read
everything.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import OptionError
from ..method import Keep, Many, Range, method, option
from ..stores.compact import Compact
from ..stores.paged import Paged, Picks
from ..tokens import Entries


@method(
    title="DELTA: Dynamic Layer-Aware Token Attention for Efficient Long-Context Reasoning",
    url="https://arxiv.org/abs/2510.09883",
    systems=("S096",),
    needs=(),
    cost="a sort of the pages in each selection layer, each step",
    vectors=("delta",),
    exempt={"half": "nothing is made smaller: layers read less of what they keep"},
)
class DELTA:
    """Selection layers and sparse layers."""

    keep: float | int = option(0.2, Keep(), "share (float) or number (int) of entries that sparse layers read")
    page: int = option(16, Range(1, kind=int), "entries of a page")
    recent: int = option(2, Range(1, kind=int), "how many newest pages are always read")
    first: int = option(2, Range(0, kind=int), "how many first layers always read everything")
    groups: int = option(3, Range(1, kind=int), "how many selection layers there are after those")
    select: tuple[int, ...] | None = option(None, Many(Range(0, kind=int)), "which layers select instead, from 0")

    def selecting(self, layers: int) -> list[int]:
        """The selection layers of a model with so many layers.

        Raises:
            OptionError: one of ``select`` is not among the layers.
        """
        if self.select is not None:
            if beyond := [i for i in self.select if i >= layers]:
                raise OptionError(
                    f"'select' of delta names layer {beyond[0]}, and the model has layers 0 to {layers - 1}."
                )
            return sorted(self.select)
        rest = max(0, layers - self.first)
        return sorted({self.first + i * rest // self.groups for i in range(self.groups)} & {*range(layers)})

    def pack(self, entries: Entries) -> Compact:
        """One layer alone: keys and values (B, g, n, d), all of which it reads."""
        return Paged(entries.keys, entries.values, Picks(), True, self.page, self.keep, self.recent)

    def weigh(self, entries: Entries) -> Entries:
        """What of a layer is needed once all layers were read."""
        return entries

    def settle(self, layers: Sequence[Entries]) -> list[Compact | None]:
        """What each layer holds from now on; None for the first layers, which stay as they are."""
        selecting = self.selecting(layers[0].layers) if layers else []
        out: list[Compact | None] = []
        picks: Picks | None = None
        for e in layers:
            picks = Picks() if e.layer in selecting else picks
            size = (self.page, self.keep, self.recent)
            out.append(None if picks is None else Paged(e.keys, e.values, picks, e.layer in selecting, *size))
        return out
