"""Random: random selection of visual tokens, the baseline every method has to beat.

A baseline throughout the field, for instance in Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", 2024.
https://arxiv.org/abs/2403.06764

The draw depends on ``seed`` and the number of tokens only: the same on every run, row and device, and it leaves the
global random state alone.
"""

from __future__ import annotations

import torch

from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..reduction import Reduction
from ..tokens import Tokens


@method(title="random selection", url="https://arxiv.org/abs/2403.06764", cost="a shuffle of n")
class Random:
    """Uniform random selection."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of visual tokens to keep")
    seed: int = option(0, Range(0, 2**31, int), "seed of the draw")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D) -> selection of m, the same for every row."""
        order = torch.randperm(tokens.n, generator=torch.Generator().manual_seed(self.seed))
        keep = order[: budget(self.keep, tokens.n)].to(tokens.x.device)
        return Reduction.take(keep.expand(tokens.x.shape[0], -1), tokens.n)
