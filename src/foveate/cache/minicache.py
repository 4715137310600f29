"""MiniCache: two neighbouring layers keep one direction for each cached token, and a length each.

Liu et al., "MiniCache: KV Cache Compression in Depth Dimension for Large Language Models", NeurIPS 2024.
https://arxiv.org/abs/2405.14366

From the middle of a model on, the caches of neighbouring layers resemble each other. From layer ``start`` on they are
merged two by two, keys and values apart: an entry's direction is interpolated on the arc between both layers (``part``
of the way to the deeper one), its length in either layer is kept. Tokens whose directions differ most stay unmerged:
here the share ``retain`` of them, in the paper those whose distance lies in the top 5 % of the range that occurs.

Tokens that are generated are merged in the same way, ``step`` at a time, once both layers have them. The two layers of
a pair must hold the same tokens, so eviction that differs from layer to layer cannot come before this. No authors' code
was found.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..method import Range, method, option
from ..stores.compact import Compact, Halves
from ..stores.shared import Pair
from ..stores.stream import Whole
from ..tokens import Entries


@method(
    title="MiniCache: KV Cache Compression in Depth Dimension for Large Language Models",
    url="https://arxiv.org/abs/2405.14366",
    systems=("S079",),
    needs=(),
    cost="an interpolation of all entries of half the layers",
    exempt={"half": "one layer alone has nothing to share and is stored as it is"},
)
class MiniCache:
    """Cross-layer merging."""

    start: float = option(0.5, Range(0, 1), "part of the layers, the first ones, that is left alone")
    part: float = option(0.6, Range(0, 1), "how far the shared direction lies from the shallow to the deep layer")
    retain: float = option(0.05, Range(0, 1), "share of the tokens that are not merged, rounded up")
    step: int = option(64, Range(1, kind=int), "new tokens that are merged together")

    def pack(self, entries: Entries) -> Compact:
        """One layer alone: keys and values (B, g, n, d) as they are."""
        return Halves(Whole(entries.keys), Whole(entries.values))

    def weigh(self, entries: Entries) -> Entries:
        """What of a layer is needed once all layers were read."""
        return entries

    def settle(self, layers: Sequence[Entries]) -> list[Compact | None]:
        """What each layer holds from now on; None where it stays as it is."""
        out: list[Compact | None] = [None] * len(layers)
        i = next((i for i, e in enumerate(layers) if e.layer >= int(self.start * e.layers)), len(layers))
        while i + 1 < len(layers):
            a, b = layers[i], layers[i + 1]
            if b.layer != a.layer + 1 or a.keys.shape != b.keys.shape:
                i += 1
                continue
            pair = Pair(((a.keys, a.values), (b.keys, b.values)), self.part, self.retain, self.step, a.valid)
            out[i], out[i + 1] = pair.half(0), pair.half(1)
            i += 2
        return out
