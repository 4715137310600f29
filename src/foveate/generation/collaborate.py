"""CoDe: a large model draws the coarse scales, a small one the fine ones, which have most of the tokens.

Chen et al., "Collaborative Decoding Makes Visual Auto-Regressive Modeling Efficient", CVPR 2025.
https://arxiv.org/abs/2411.17787

The small model reads the scales that the large one drew in a single forward and goes on from there; the large model's
cache is let go at that moment. In the paper both are fine-tuned for their scales; here weights are used as given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .next_scale import NextScale, Whole


@dataclass(frozen=True)
class Shared:
    """tokens of every scale, [(B, s * s)]; the most bytes of cache that were held at a time; forwards of each model."""

    tokens: list[Tensor]
    peak: int
    large: int
    small: int


@torch.no_grad()
def collaborate(
    large: NextScale, small: NextScale, classes: Tensor, *, drafted: int, temperature: float = 1.0, seed: int = 0
) -> Shared:
    """Generate with ``large`` for the first ``drafted`` scales and with ``small`` for the rest. classes (B,) int64.

    Raises:
        InputError: models of different scales or codebooks, or a number of scales that there are not.
    """
    every = len(large.shape.scales)
    if large.shape != small.shape or not torch.equal(torch.as_tensor(large.book), torch.as_tensor(small.book)):
        raise InputError("the two models must have the same scales and the same codebook")
    if not 0 <= drafted <= every:
        raise InputError(f"'drafted' must be from 0 to {every} scales. Got {drafted}.")
    first = Whole(large.layers)
    tokens = large.go_on(classes, [], first, drafted, temperature, seed)
    peak = first.nbytes
    if drafted == every:
        return Shared(tokens, peak, drafted, 0)
    second = Whole(small.layers)
    if tokens:
        small.several(classes, tokens, second)
        peak = max(peak, second.nbytes)
    del first
    tokens = small.go_on(classes, tokens, second, every, temperature, seed)
    return Shared(tokens, max(peak, second.nbytes), drafted, every - drafted + bool(drafted))
