"""FastV: after the first layers, drop the image tokens that the prompt's last token hardly attends to.

Chen et al., "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large
Vision-Language Models", ECCV 2024.
https://arxiv.org/abs/2403.06764

Before layer K the image tokens are ranked by the attention that the last token of the prompt paid them in layer K - 1
(mean over heads); the best are kept, in order and at their original positions, for all later layers. Earlier layers'
caches keep everything. Rounded half to even, as in the authors' code.
"""

from __future__ import annotations

from ..errors import SignalError
from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..parts.select import top
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="An Image is Worth 1/2 Tokens After Layer 2",
    url="https://arxiv.org/abs/2403.06764",
    needs=("last_attention",),
    cost="one attention row for each head of one layer, a sort of n",
    vectors=("fastv",),
)
class FastV:
    """Selection inside the LLM by the last token's attention."""

    layer: int = option(2, Range(1, kind=int), "drop before this layer (0-based); its predecessor's attention decides")
    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of visual tokens to keep")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before one layer."""
        return (self.layer,)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.last_attention (B, H, n) -> selection of m."""
        if tokens.last_attention is None:
            raise SignalError("fastv needs last_attention (B, H, n); it is None")
        score = tokens.last_attention.float().mean(1)
        return Reduction.take(top(score, budget(self.keep, tokens.n)), tokens.n)
