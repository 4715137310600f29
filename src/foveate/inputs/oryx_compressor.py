"""OryxCompressor: pool the grid by the kind of input, and let each pooled token attend to what it was pooled from.

Liu et al., "Oryx MLLM: On-Demand Spatial-Temporal Understanding at Arbitrary Resolution", ICLR 2025.
https://arxiv.org/abs/2409.12961

Images keep all tokens, videos are averaged over 2 x 2 cells and long videos over 4 x 4. A pooled token then queries the
tokens of its own cell, and what it finds is added to it.

The query and key projections are learned; without them (as here) the tokens are their own queries and keys, and
:meth:`OryxCompressor.mix` takes projected ones. Departures: the result is the mean of the pooled token and what it
found, so that tokens keep their length for models not trained with it; ``variant="code"`` adds the two as the paper
does. Cells at the edge of a grid that does not divide are smaller.
"""

from __future__ import annotations

from torch import Tensor

from ..method import OneOf, Range, method, option
from ..parts.pooling import Places, averaged
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Oryx MLLM: On-Demand Spatial-Temporal Understanding at Arbitrary Resolution",
    url="https://arxiv.org/abs/2409.12961",
    systems=("S049",),
    needs=("grid|features",),
    training="query and key projections, and the model (it also runs without)",
    cost="one product of each token with its cell's mean",
    vectors=("oryx_compressor",),
)
class OryxCompressor:
    """Average pooling with attention inside each cell."""

    stride: int = option(2, Range(1, kind=int), "side of a cell: 1 for images, 2 for videos, 4 for long videos")
    variant: str = option("mean", OneOf(("mean", "code")), "mean or sum of pooled and attended tokens; see above")

    def mix(self, tokens: Tokens, q: Tensor, k: Tensor) -> Reduction:
        """The map, given queries and keys of all tokens, (B, n, d) each; a cell's query is the mean of its tokens'."""
        pooled = averaged(Places(tokens).squares(self.stride), tokens.size)
        slot = pooled.assign
        logits = (pooled.expand(pooled(q.float())) * k.float()).sum(-1) * q.shape[-1] ** -0.5
        empty = logits.new_zeros(pooled.b, pooled.m)
        top = empty.scatter_reduce(1, slot, logits, "amax", include_self=False)
        found = (logits - top.gather(1, slot)).exp()
        found = found / empty.scatter_add(1, slot, found).gather(1, slot)
        both = pooled.weight + found
        if self.variant == "mean":
            both = both / 2
        if self.variant == "mean" and pooled.selects:
            return pooled
        return Reduction(pooled.keep, slot, both)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), grid (B, n, 3) or else a square -> map to mixtures of cells."""
        return self.mix(tokens, tokens.x, tokens.x)
