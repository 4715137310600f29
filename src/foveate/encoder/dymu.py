"""DyMU: merge as many similar patches in each block as the image allows, by thresholds fitted beforehand.

Wang et al., "DyMU: Dynamic Merging and Virtual Unmerging for Efficient VLMs", 2025.
https://arxiv.org/abs/2504.17040

Bipartite matching as in ToMe, but a pair is merged whenever its similarity lies above the block's threshold, so that
plain images end with few tokens and busy ones with many. :func:`calibrate` finds the thresholds: over batches of any
images, merge the r best pairs of each image on average, and remember where that cut fell.

The LLM then sees few tokens, and may attend as if each patch still stood in its place: foveate.parts.unmerge. Rows of a
batch end with different numbers of tokens; empty places have size 0, which log(size) in later attention logits hides,
and are never matched. The authors' code divides by size + 0.0001 in batches; this does not. ``variant="code"`` lists
tokens as the code does where rows are equally long, sources before destinations.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..method import Many, OneOf, Range, method, option
from ..parts.edges import Edges, cap, edges, joined, listing, pooled
from ..parts.merge import uneven
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="DyMU: Dynamic Merging and Virtual Unmerging for Efficient VLMs",
    url="https://arxiv.org/abs/2504.17040",
    systems=("S007",),
    needs=("metric", "size"),
    cost="one n/2 x n/2 similarity a block",
    vectors=("dymu",),
)
class DyMU:
    """Bipartite merging above a threshold."""

    thresholds: tuple[float, ...] = option(
        (0.9,), Many(Range(-1, 1)), "cosine above which a pair is merged, for each block; the last one for all after it"
    )
    most: int | None = option(None, Range(0, kind=int), "merge at most this many tokens of a row in one block")
    proportional: bool = option(True, OneOf((True, False)), "add log(size) to later attention logits")
    variant: str = option("spatial", OneOf(("spatial", "code")), "how survivors are listed; see above")

    def at(self, layers: int) -> tuple[int, ...]:
        """Every block."""
        return tuple(range(layers))

    def edges(self, tokens: Tokens) -> Edges:
        """tokens.metric (B, n, d) -> the pairs that may be merged; each has an even source, so that is at most half."""
        found = edges(tokens.need("metric"), tokens.prefix, None if tokens.size is None else tokens.size <= 0)
        return found if self.most is None else Edges(cap(found.best, self.most), found.to)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.metric (B, n, d), tokens.size (B, n) -> merge, each row to a number of its own."""
        found = self.edges(tokens)
        over = self.thresholds[min(tokens.layer, len(self.thresholds) - 1)]
        into = joined(found, found.best > over, tokens.n)
        if tokens.size is not None:
            into = torch.where(tokens.size > 0, into, -1)
        out = uneven(into, tokens.size)
        if self.variant == "code" and bool(out.valid.all()):
            return out.listed(listing(edges(tokens.need("metric"), tokens.prefix), into, tokens.prefix).order)
        return out


def calibrate(metrics: Iterable[Tensor], r: int, prefix: int = 0, most: int | None = None) -> float:
    """The threshold of one block: the mean over batches of where a cut that merges r tokens a row falls.

    metrics: the block's keys averaged over heads, (B, n, d) for each batch, of a tower whose earlier blocks merge
    already.
    """
    cuts = []
    for metric in metrics:
        best = edges(metric, prefix).best
        cuts.append(pooled(best if most is None else cap(best, most), min(r, (metric.shape[1] - prefix) // 2))[1])
    return sum(cuts) / max(1, len(cuts))
