"""VTC-CLS: keep the tokens that the class token attends to, summed over the layers of the vision encoder.

Wang et al., "[CLS] Token Tells Everything Needed for Training-free Efficient MLLMs", 2024.
https://arxiv.org/abs/2412.05819

What the class token attends to moves from block to block; an ensemble over blocks finds the tokens that matter more
reliably than any single one. The best are kept in their order.

As in the authors' code the encoder's last block does not count where the features come from the one before it. An
encoder without a class token gives the attention each token receives.
"""

from __future__ import annotations

from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..parts.select import top
from ..parts.signals import layer_attention
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="[CLS] Token Tells Everything Needed for Training-free Efficient MLLMs",
    url="https://arxiv.org/abs/2412.05819",
    systems=("S014",),
    needs=("cls_layers|received_layers",),
    cost="one attention row for each head of each block, a sort of n",
    vectors=("vtc_cls",),
)
class VTCCLS:
    """Selection by class-token attention over many layers."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of visual tokens to keep")
    start_layer: int = option(0, Range(kind=int), "first block that counts (0-based); -3 is the last three")

    def score(self, tokens: Tokens) -> Tensor:
        """tokens.cls_layers or received_layers (B, L, n) -> (B, n), higher is kept."""
        rows = layer_attention(tokens)
        return rows[:, min(self.start_layer, rows.shape[1] - 1) :].sum(1)

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`score` -> selection of m."""
        return Reduction.take(top(self.score(tokens), budget(self.keep, tokens.n)), tokens.n)
