"""GEAR: quantised cache entries, plus outliers as they are, plus a low-rank matrix for the error.

Kang et al., "GEAR: An Efficient KV Cache Compression Recipe for Near-Lossless Generative Inference of LLM", 2024.
https://arxiv.org/abs/2403.05527

Keys are quantised per channel, values per token, both in groups. The smallest and largest ``sparsity`` share of each
channel (keys) or token (values) is kept apart, and each head's error is approximated by some rounds of power iteration.
New tokens wait whole until ``recent`` of them are compressed in the same way, as a stretch of their own.

The iteration starts from fixed numbers, not from random ones. ``variant="code"`` is the published code: it counts the
outliers of a channel as if it were as long as a token is wide, and makes bits^2 levels, right for 2 and 4 bits only.
"""

from __future__ import annotations

from ..method import OneOf, Range, method, option
from ..stores.compact import Compact, Halves
from ..stores.lowrank import Residual
from ..stores.packed import Grid, Tile, filled
from ..stores.stream import Stream
from ..tokens import Entries


@method(
    title="GEAR: An Efficient KV Cache Compression Recipe for Near-Lossless Generative Inference of LLM",
    url="https://arxiv.org/abs/2403.05527",
    systems=("S080",),
    needs=(),
    cost="a sort of each channel and token, 2 x loops products with rank columns",
    vectors=("gear",),
)
class GEAR:
    """Quantisation, outliers and a low-rank residual."""

    bits: int = option(4, OneOf((2, 3, 4, 8)), "bits of a number")
    group: int = option(64, Range(1, kind=int), "tokens (keys) or channels (values) that share a scale")
    sparsity: float = option(0.02, Range(0, 0.5), "share of outliers, half of them small and half large")
    rank: int = option(4, Range(0, kind=int), "rank of the matrix that stands for a head's error")
    loops: int = option(3, Range(1, kind=int), "rounds of the power iteration")
    recent: int = option(64, Range(1, kind=int), "new tokens that are compressed together")
    variant: str = option("paper", OneOf(("paper", "code")), "the paper's rule, or the published code with its slips")

    def coder(self, along: str, g: int, t: int, d: int) -> Residual:
        """Of (B, g, t, d) keys (along = "tokens") or values ("channels")."""
        tile = Tile(self.group, 1) if along == "tokens" else Tile(1, self.group)
        if along == "tokens" and self.variant == "paper":
            outliers = int(t * self.sparsity / 2)
        else:
            outliers = int(int(g * t * d * self.sparsity) / max(1, t) / 2)
        levels = self.bits**2 - 1 if self.variant == "code" else None
        bits = 4 if levels == 8 else self.bits  # the code's three bits take nine values
        return Residual(Grid(bits, tile, levels), along, outliers, min(self.rank, t, d), self.loops)

    def pack(self, entries: Entries) -> Compact:
        """Keys and values (B, g, n, d), compressed."""
        g, n = entries.keys.shape[1:3]
        step = -(-self.recent // self.group) * self.group  # whole groups of keys
        sides = []
        for x, along in ((entries.keys, "tokens"), (entries.values, "channels")):
            x = filled(x, entries.valid)
            whole = n // step * step
            first, later = self.coder(along, g, whole or step, x.shape[3]), self.coder(along, g, step, x.shape[3])
            side = Stream(x[:, :, :whole], first, step=step)
            side.coder = later
            side.append(x[:, :, whole:])
            sides.append(side)
        return Halves(*sides)
