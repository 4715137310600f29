"""dParallel: fill every position whose distribution has little entropy, on a model trained to be certain early.

Chen et al., "dParallel: Learnable Parallel Decoding for dLLMs", 2025. https://arxiv.org/abs/2509.26488

What makes it fast is the training: :func:`foveate.diffusion.certainty.distil` lets a model follow its own slow runs
while it is pushed to low entropy where it is right. This schedule is the decoding that goes with it; it runs on any
model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...method import Range, method, option
from .._schedule import Look, Stateless, best


@method(
    title="dParallel: Learnable Parallel Decoding for dLLMs",
    url="https://arxiv.org/abs/2509.26488",
    systems=("S121",),
    needs=(),
    training="low-rank or full fine-tuning on the model's own texts; none to run it",
    cost="between one forward a block and one a token",
)
class DParallel(Stateless):
    """Everything of low entropy, and always the position of lowest."""

    entropy: float = option(0.5, Range(0), "in nats; below it a position is filled")

    def fill(self, look: Look) -> Tensor:
        """(B, n) bool."""
        entropy: Tensor = torch.special.entr(look.logits.softmax(-1)).sum(-1)
        surest = best((-entropy).masked_fill(~look.masked, -torch.inf), torch.ones_like(look.quota))
        return ((entropy < self.entropy) & look.masked) | surest
