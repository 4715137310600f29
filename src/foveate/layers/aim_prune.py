"""AIM, inside the LLM: walk along the attention, and drop the visual tokens where a walker hardly ever ends.

Zhong et al., "AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning", ICCV 2025.
https://arxiv.org/abs/2412.03248

A token's importance is its page rank in the attention of the layer before: where a walker ends that starts anywhere in
the whole sequence and takes five steps, root of the mean square over heads; the attention is sharpened first. From half
depth on, an equal part of the original tokens leaves after every layer, until none is left at three quarters. The
merging before the LLM is the method ``aim``; "aim + aim_prune" is the whole.

The paper's damping is off by default, as in the authors' code. Departure: the code hides pruned tokens from later
layers and lets them walk on; here they have left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Many, Range, method, option
from ..parts.budget import floor_budget
from ..parts.chunks import page_rank
from ..parts.select import top
from ..parts.stages import due, equally_long, starts
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning",
    url="https://arxiv.org/abs/2412.03248",
    systems=("S006",),
    needs=("last_heads",),
    cost="the attention map of one layer again, in slices, at each stage",
)
class AIMPrune:
    """Progressive selection by page rank."""

    layers: tuple[int, ...] | None = option(
        None, Many(Range(1, kind=int)), "drop before these layers (0-based); default: evenly from 15/28 to 22/28 deep"
    )
    keeps: tuple[float, ...] = option(
        tuple(1 - s / 8 for s in range(1, 9)), Many(Range(0, 1)), "shares of the original visual tokens left; 0 is none"
    )
    temperature: float = option(0.1, Range(0, open_low=True), "of the attention that is walked along")
    steps: int = option(5, Range(1, kind=int), "steps of the walk")
    damping: float = option(0.0, Range(0, 1), "chance to start anew at each step")

    def __post_init__(self) -> None:
        equally_long(self, "layers", "keeps")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before the layers after those whose attention decides."""
        return tuple(dict.fromkeys(self._starts(layers)))

    def _starts(self, layers: int) -> tuple[int, ...]:
        step = 8 / max(1, len(self.keeps))
        return starts(self.layers, [(15 + step * s) / 28 for s in range(len(self.keeps))], layers)

    def importance(self, q: Tensor, k: Tensor) -> Tensor:
        """q (B, H, L, d) already scaled, k (B, g, L, d) -> (B, L) of the whole sequence."""
        rank = page_rank(q, k, self.steps, self.temperature, self.damping)
        return rank.square().mean(1).sqrt()

    def reduce(self, tokens: Tokens) -> Reduction:
        """Heads of the layer that ran last -> selection of a share of tokens.full."""
        keep = due(self._starts(tokens.layers), self.keeps, tokens.layer)
        if not keep:
            return Reduction.from_mask(torch.zeros(tokens.x.shape[:2], dtype=torch.bool, device=tokens.x.device))
        m = floor_budget(keep, tokens.n, tokens.full)
        if m == tokens.n:
            return Reduction.identity(tokens.x.shape[0], tokens.n, tokens.x.device)
        score = self.importance(tokens.need("q"), tokens.need("k")).gather(1, tokens.need("where"))
        return Reduction.take(top(score, m), tokens.n)
