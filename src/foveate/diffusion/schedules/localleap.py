"""LocalLeap: near a position of high confidence a lower threshold is enough.

Kong et al., "Accelerating Diffusion LLM Inference via Local Determinism Propagation" (LocalLeap), 2025.
https://arxiv.org/abs/2510.07081

Masked positions that reach the threshold are anchors, found anew at every forward; within ``radius`` of one the relaxed
threshold holds. The abstract speaks of a consistency that decays with distance; the published code, and this file, use
one flat relaxed threshold inside the radius.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from ...method import Range, method, option
from .._schedule import Look, Stateless, at_least_the_best


@method(
    title="Accelerating Diffusion LLM Inference via Local Determinism Propagation",
    url="https://arxiv.org/abs/2510.07081",
    systems=("S114",),
    needs=(),
    cost="between one forward a block and one a token",
    vectors=("localleap",),
)
class LocalLeap(Stateless):
    """Anchors, and their neighbours."""

    confidence: float = option(0.9, Range(0, 1), "probability from which a position is an anchor, and filled")
    relaxed: float = option(0.75, Range(0, 1), "probability from which a neighbour of an anchor is filled")
    radius: int = option(4, Range(0, kind=int), "how far from an anchor a position is its neighbour")

    def fill(self, look: Look) -> Tensor:
        """(B, n) bool."""
        anchors = (look.confidence >= self.confidence) & look.masked
        near = max_pool1d(anchors[:, None].float(), 2 * self.radius + 1, 1, self.radius)[:, 0] > 0
        bar = torch.where(near, self.relaxed, self.confidence)
        return at_least_the_best(look.confidence >= bar, look)
