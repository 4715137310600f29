"""VFlowOpt, inside the LLM: drop visual tokens in a few stages, by their importance in the vision encoder.

Yang et al., "VFlowOpt: A Token Pruning Framework for LMMs with Visual Information Flow-Guided Optimization", ICCV 2025.
https://arxiv.org/abs/2508.05211

Before the stages' layers the tokens of lowest importance are dropped; the importance is that of the vision encoder, not
attention of the LLM. Layers and shares come from the paper's search (the ones that change the last token's state
least), which is not part of this. The pruning before the LLM is the method ``vflowopt``.

Departures from the authors' code: shares are of the original tokens, not of those the stage before left; the importance
is attention alone, since pixels are not at hand inside the LLM.
"""

from __future__ import annotations

from ..method import Many, Range, method, option
from ..parts.budget import budget
from ..parts.select import top
from ..parts.stages import due, equally_long, even, starts
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="VFlowOpt: A Token Pruning Framework for LMMs with Visual Information Flow-Guided Optimization",
    url="https://arxiv.org/abs/2508.05211",
    systems=("S012",),
    needs=("cls_attention|received_attention",),
    cost="a sort of n at each stage",
)
class VFlowOptStages:
    """Staged selection by vision importance."""

    layers: tuple[int, ...] | None = option(
        None, Many(Range(1, kind=int)), "drop before these layers (0-based); default: at even steps of the depth"
    )
    keeps: tuple[float, ...] = option(
        (0.5, 0.2), Many(Range(0, 1, open_low=True)), "shares of the original visual tokens left by the stages"
    )

    def __post_init__(self) -> None:
        equally_long(self, "layers", "keeps")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before the layers of the stages."""
        return tuple(dict.fromkeys(self._starts(layers)))

    def _starts(self, layers: int) -> tuple[int, ...]:
        return starts(self.layers, even(len(self.keeps)), layers)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.cls_attention (B, H, n) or received_attention (B, n) -> selection of a share of tokens.full."""
        score = tokens.need("cls_attention", "received_attention")
        score = score.float().mean(1) if score.ndim == 3 else score
        m = budget(due(self._starts(tokens.layers), self.keeps, tokens.layer), tokens.n, tokens.full)
        return Reduction.take(top(score, m), tokens.n)
