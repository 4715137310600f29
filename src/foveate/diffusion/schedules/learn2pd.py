"""Learn2PD: a small filter, trained in minutes, tells from a block's confidences which positions are already right.

Bao et al., "Learning to Parallel: Accelerating Diffusion Large Language Models via Learnable Parallel Decoding", 2025.
https://arxiv.org/abs/2509.25188

The filter is a perceptron with one hidden layer: the confidences of all positions of the block in, one logit for each
out. Masked positions it is sure of are filled, and the most confident ones of the fixed plan of ``steps`` too (one at a
forward unless fewer steps are asked for). :func:`foveate.diffusion.learn.fit` trains it on the model's own slow runs.
The paper's end-of-text prediction is ``generate(stop="text")``, for every schedule.

Departure: confidences go in for filled positions too (as in the published code); where the plan asks for more positions
than are left, the code may fill positions of later blocks, this does not.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ...errors import InputError, PlanError
from ...method import Range, method, option
from .._schedule import Block, Chooser, Look, Stateless, best
from ..filter import Filter, FilterFile


@method(
    title="Learning to Parallel: Accelerating Diffusion Large Language Models via Learnable Parallel Decoding",
    url="https://arxiv.org/abs/2509.25188",
    systems=("S115",),
    needs=(),
    training="a perceptron of 2 n^2 * 2 weights for blocks of n, in minutes",
    cost="one tiny perceptron a forward",
    vectors=("learn2pd",),
)
class Learn2PD(Stateless):
    """What a trained filter lets through."""

    precise: ClassVar[bool] = False

    filter: Any = option(None, FilterFile(), "the trained filter: a .safetensors file, or (from Python) a Filter")
    accept: float = option(0.96, Range(0, 1), "probability of being right from which a position is filled")

    def begin(self, block: Block) -> Chooser:
        """Raises PlanError without a filter, InputError for one of another block length."""
        if self.filter is None:
            raise PlanError(
                "learn2pd needs a trained filter: write learn2pd(filter='filter.safetensors'), made by "
                "foveate.diffusion.learn.fit; without one, threshold needs no training"
            )
        net = Filter.of(self.filter)
        if net.size < block.size:
            raise InputError(f"this filter was trained on blocks of {net.size} positions. Got one of {block.size}.")
        return _Filtered(self, net)


class _Filtered:
    def __init__(self, options: Learn2PD, net: Filter) -> None:
        self.options, self.net, self.rescore = options, net, options.rescore

    def fill(self, look: Look) -> Tensor:
        """(B, n) bool."""
        said: Tensor = self.net.to(look.confidence.device)(look.confidence.float())
        sure = said.sigmoid() > self.options.accept
        return (sure & look.masked) | best(look.candidates, look.quota)
