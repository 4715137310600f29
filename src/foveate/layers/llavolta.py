"""LLaVolta: average neighbouring visual tokens inside the LLM, after a few layers have seen them all.

Chen et al., "LLaVolta: Efficient Multi-modal Models via Stage-wise Visual Context Compression", NeurIPS 2024.
https://arxiv.org/abs/2406.20092

Before one layer each run of ``stride`` tokens of the flattened sequence becomes their mean. The paper trains with it in
stages, from heavy to light to none; the same pooling works at test time. The form before the LLM with any budget is the
method ``avgpool``.

A pooled token inherits the position in the middle of its run, rounded down, as in the authors' code (which rounds to
half precision first). What is left over at the end is a shorter run here; the code drops it (``variant="code"``).
"""

from __future__ import annotations

import torch

from ..method import OneOf, Range, method, option
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="LLaVolta: Efficient Multi-modal Models via Stage-wise Visual Context Compression",
    url="https://arxiv.org/abs/2406.20092",
    systems=("S046",),
    cost="one pass over the tokens",
    vectors=("llavolta",),
)
class LLaVolta:
    """Average pooling inside the LLM."""

    layer: int = option(2, Range(1, kind=int), "pool before this layer (0-based)")
    stride: int = option(8, Range(1, kind=int), "tokens in a run")
    variant: str = option("whole", OneOf(("whole", "code")), "what becomes of the tokens left over; see above")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before one layer."""
        return (self.layer,)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D) -> map to the means of runs."""
        at = torch.arange(tokens.n, device=tokens.x.device)
        first = at // self.stride * self.stride
        last = (first + self.stride).clamp(max=tokens.n) - 1
        into = (first + last) // 2
        if self.variant == "code":
            into = into.masked_fill(last - first + 1 < self.stride, -1)
        return Reduction.merge(into.expand(tokens.x.shape[0], -1), tokens.size)
