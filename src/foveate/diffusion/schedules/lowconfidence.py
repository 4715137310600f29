"""Low confidence: fill a fixed number of positions at every forward, the most confident first.

Nie et al., "Large Language Diffusion Models" (LLaDA), 2025. https://arxiv.org/abs/2502.09992

Each block gets its share of ``steps``; the masks of the block are split evenly over them, the first forwards taking one
more where that does not come out even. With ``steps`` equal to the length it fills one position at a time: the slow
reference that the other schedules are compared with.

``precise`` takes confidences in float64, as Fast-dLLM's code does under the same plan; LLaDA's own takes float32.
"""

from __future__ import annotations

from torch import Tensor

from ...method import OneOf, method, option
from .._schedule import Look, Stateless, best


@method(
    title="Large Language Diffusion Models",
    url="https://arxiv.org/abs/2502.09992",
    needs=(),
    cost="steps forwards",
    vectors=("llada_decode",),
)
class LowConfidence(Stateless):
    """The plan of ``steps``, the most confident first."""

    precise: bool = option(False, OneOf((False, True)), "confidences in float64")  # type: ignore[misc]

    def fill(self, look: Look) -> Tensor:
        """(B, n) bool: the quota's most confident candidates."""
        return best(look.candidates, look.quota)
