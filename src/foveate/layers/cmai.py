"""CMAI: drop the visual tokens that no text token focuses on, directly or through the words it reads.

Yang et al., "Enhancing Instruction-Following Capability of Visual-Language Models by Reducing Image Redundancy", 2024.
https://arxiv.org/abs/2411.15453

Text-to-image attention is aggregated by text-to-text attention: the focus of a text token on a visual token is what all
text tokens it reads pay that token, weighted by how much it reads them. The paper inhibits attention for pairs of low
focus, in every layer. A pair cannot be taken out of a sequence, a token can: here the tokens whose strongest pair
(``pairs="mean"``: whose mean) is weakest leave before one layer. No code was published; the number of tokens left is an
option, and the paper's merging before the LLM is the method ``vmtc``.
"""

from __future__ import annotations

from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.score import text_rows
from ..parts.select import top
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Enhancing Instruction-Following Capability of Visual-Language Models by Reducing Image Redundancy",
    url="https://arxiv.org/abs/2411.15453",
    systems=("S008",),
    needs=("last_heads",),
    cost="attention rows of the text tokens of one layer, a product with their attention on each other",
)
class CMAI:
    """Selection by text-to-image focus."""

    layer: int = option(2, Range(1, kind=int), "drop before this layer (0-based); its predecessor's attention decides")
    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of visual tokens to keep")
    pairs: str = option("max", OneOf(("max", "mean")), "how the pairs of a visual token become its score")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before one layer."""
        return (self.layer,)

    def focus(self, to_text: Tensor, to_image: Tensor) -> Tensor:
        """Head-mean attention of text on text (B, t, t) and on visual tokens (B, t, n) -> (B, t, n)."""
        return to_text @ to_image

    def reduce(self, tokens: Tokens) -> Reduction:
        """Heads of the layer that ran last -> selection of m."""
        q, k, where, asks = (tokens.need(name) for name in ("q", "k", "where", "asks"))
        rows = text_rows(q, k, asks).mean(1)  # (B, t, L)
        to_text, to_image = (rows.gather(2, at[:, None].expand(-1, rows.shape[1], -1)) for at in (asks, where))
        focus = self.focus(to_text, to_image)
        score = focus.amax(1) if self.pairs == "max" else focus.mean(1)
        return Reduction.take(top(score, budget(self.keep, tokens.n)), tokens.n)
