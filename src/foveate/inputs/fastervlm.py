"""FasterVLM: keep the visual tokens that the vision encoder's class token attends to most.

Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference Faster", 2024.
https://arxiv.org/abs/2412.01818

Attention between text and image inside the LLM is a poor guide to importance; the class token's attention in the
encoder layer that feeds the projector is a better one and is known before the LLM starts.

Departure from the paper: an encoder without a class token gives the attention each token receives from all others.
"""

from __future__ import annotations

from torch import Tensor

from ..errors import SignalError
from ..method import Keep, method, option
from ..parts.budget import budget
from ..parts.select import top
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference Faster",
    url="https://arxiv.org/abs/2412.01818",
    systems=("S013",),
    needs=("cls_attention|received_attention",),
    cost="one attention row for each head, a sort of n",
    vectors=("fastervlm",),
)
class FasterVLM:
    """Selection by class-token attention."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of visual tokens to keep")

    def score(self, tokens: Tokens) -> Tensor:
        """tokens.cls_attention (B, H, n), or else tokens.received_attention (B, n) -> (B, n), higher is kept."""
        if tokens.cls_attention is not None:
            return tokens.cls_attention.float().mean(1)
        if tokens.received_attention is not None:
            return tokens.received_attention
        raise SignalError("fastervlm needs cls_attention (B, H, n) or received_attention (B, n); both are None")

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`score` -> selection of m."""
        return Reduction.take(top(self.score(tokens), budget(self.keep, tokens.n)), tokens.n)
