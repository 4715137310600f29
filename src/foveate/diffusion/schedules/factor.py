"""Factor: fill the n most confident positions for the largest n with (n + 1) * (1 - c_n) < factor.

Wu et al., "Fast-dLLM: Training-free Acceleration of Diffusion LLM by Enabling KV Cache and Parallel Decoding", 2025.
https://arxiv.org/abs/2505.22618

The more positions are filled together, the surer each must be: under this bound greedy decoding in parallel and one by
one agree (the paper's theorem). ``variant="code"`` is the published code, which fills everything also when only the
last candidate fails.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...method import OneOf, Range, method, option
from .._schedule import Look, Stateless, best


@method(
    title="Fast-dLLM: Training-free Acceleration of Diffusion LLM by Enabling KV Cache and Parallel Decoding",
    url="https://arxiv.org/abs/2505.22618",
    needs=(),
    cost="between one forward a block and one a token",
    vectors=("fast_dllm",),
)
class Factor(Stateless):
    """As many as the least sure of them allows."""

    factor: float = option(1.0, Range(0, open_low=True), "how much doubt n positions may share")
    variant: str = option("paper", OneOf(("paper", "code")), "code: all are filled when only the last one fails")

    def fill(self, look: Look) -> Tensor:
        """(B, n) bool."""
        ranked = look.candidates.sort(-1, descending=True).values  # filled positions come last, with -inf
        n = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
        bar = 1 - self.factor / (n + 1)
        passes = (ranked >= bar) | (n == 1)
        count = passes.long().cumprod(-1).sum(-1)
        left = look.masked.sum(-1)
        if self.variant == "code":
            count = torch.where(count == left - 1, left, count)
        return best(look.candidates, count.clamp(min=1))
