"""Threshold: fill every position whose confidence reaches a threshold, and always the most confident one.

Wu et al., "Fast-dLLM: Training-free Acceleration of Diffusion LLM by Enabling KV Cache and Parallel Decoding", 2025.
https://arxiv.org/abs/2505.22618

Where the model is nearly certain of each token alone, filling them together gives the same text as one after the other.
"""

from __future__ import annotations

from torch import Tensor

from ...method import Range, method, option
from .._schedule import Look, Stateless, at_least_the_best


@method(
    title="Fast-dLLM: Training-free Acceleration of Diffusion LLM by Enabling KV Cache and Parallel Decoding",
    url="https://arxiv.org/abs/2505.22618",
    needs=(),
    cost="between one forward a block and one a token",
    vectors=("fast_dllm",),
    aliases=("fast_dllm",),
)
class Threshold(Stateless):
    """Everything that is sure enough."""

    confidence: float = option(0.9, Range(0, 1), "probability from which a token is filled")

    def fill(self, look: Look) -> Tensor:
        """(B, n) bool."""
        return at_least_the_best(look.confidence >= self.confidence, look)
