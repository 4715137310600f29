"""Unified layer skipping: new tokens run through an even choice of the layers. LOSSY: the words change.

Liu et al., "Accelerating Inference in Large Language Models with a Unified Layer Skipping Strategy", 2024.
https://arxiv.org/abs/2404.06954

The speedup alone decides how many layers run: the first, the last, and evenly spaced ones between. All tokens of all
rows take the same ones, so batches and caches stay simple. The prompt runs through every layer; each later token only
through those reserved, where it finds the prompt's entries of the whole stack and later ones of the thin one.

This is the one method of its stage that does not keep the model's words: it drafts nothing and checks nothing.
"""

from __future__ import annotations

from torch import Tensor

from ..method import Range, method, option
from ._drafter import Draft, Drafter, Outcome, Turn


@method(
    title="Accelerating Inference in Large Language Models with a Unified Layer Skipping Strategy",
    url="https://arxiv.org/abs/2404.06954",
    systems=("S149",),
    needs=(),
    cost="layers / speedup layers for each new token; lossy",
    vectors=("unified_layer_skip",),
)
class UnifiedLayerSkip:
    """New tokens skip layers (lossy)."""

    speedup: float = option(1.5, Range(1), "how many times fewer layers run for each new token")

    def reserved(self, layers: int) -> tuple[int, ...]:
        """0-based layers that run."""
        return reserved(layers, self.speedup)

    def begin(self, turn: Turn) -> Drafter:
        """It drafts nothing."""
        return self

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> no guesses."""
        return Draft(ids[:, :0])

    def learn(self, outcome: Outcome) -> None:
        """Nothing to learn."""


def reserved(layers: int, speedup: float) -> tuple[int, ...]:
    """The first, the last, and multiples of an interval, until int(layers / speedup) are chosen (two at least)."""
    count = int(layers / speedup)
    chosen = {0, layers - 1}
    interval = max(1, int(layers / max(1, count - 1)))
    for i in range(1, layers):
        if len(chosen) >= count:
            break
        if i % interval == 0:
            chosen.add(i)
    return tuple(sorted(chosen))
