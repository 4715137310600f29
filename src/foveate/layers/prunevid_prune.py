"""PruneVid, inside the LLM: keep in every frame what some word of the question looks at.

Huang et al., "PruneVid: Visual Token Pruning for Efficient Video Large Language Models", Findings of ACL 2025.
https://arxiv.org/abs/2412.16117

Before one layer, the score of a visual token is the largest attention that any head and any text token after the video
paid it in the layer before; the best of each group stay. What happens before the LLM is the method ``prunevid``.

Departures: a group is what stands in one frame, so a scene's still tokens share the quota of its first frame's others
(the code has a group for each). The budget is met exactly, frames get it by their sizes; ``variant="code"`` rounds down
in each. Tokens stay at their original positions, and the caches of earlier layers keep what those layers saw (the code
cuts them to the tokens kept).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.quota import seats
from ..parts.regions import best_in_groups, group_sizes
from ..parts.score import text_rows
from ..parts.stages import starts
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="PruneVid: Visual Token Pruning for Efficient Video Large Language Models",
    url="https://arxiv.org/abs/2412.16117",
    needs=("last_heads", "grid"),
    cost="attention rows of the text tokens in one layer, a sort of n",
    vectors=("prunevid",),
)
class PruneVidPrune:
    """Selection in each frame by the question's largest attention."""

    keep: float | int = option(0.4, Keep(), "share (float) or number (int) of visual tokens to keep")
    layer: int | None = option(
        None, Range(1, kind=int), "drop before this layer (0-based); default: at 10 of 32, as in the paper"
    )
    variant: str = option("paper", OneOf(("paper", "code")), "budget met exactly, or rounded down in each frame")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before one layer."""
        return starts(None if self.layer is None else (self.layer,), (10 / 32,), layers)

    def score(self, attention: Tensor) -> Tensor:
        """attention (B, H, t, n) of the text on the visual tokens -> (B, n)."""
        return attention.amax((1, 2))

    def chosen(self, score: Tensor, group: Tensor) -> Tensor:
        """Which stay. score (B, n), group (B, n) int64 from 0 -> (B, n) bool."""
        sizes = group_sizes(group, int(group.max()) + 1)
        if self.variant == "code":
            share = self.keep if isinstance(self.keep, float) else self.keep / score.shape[1]
            counts = torch.tensor([[int(s * share) for s in row] for row in sizes.tolist()], device=group.device)
        else:
            m = budget(self.keep, score.shape[1])
            counts = torch.stack([seats(row, row, m) for row in sizes])
        return best_in_groups(score, group, counts)

    def reduce(self, tokens: Tokens) -> Reduction:
        """Heads of the layer that ran last, tokens.grid (B, n, 3) -> selection."""
        q, k, asks = tokens.need("q"), tokens.need("k"), tokens.need("asks")
        frame = tokens.need("grid")[..., 0]
        score = self.score(text_rows(q, k, asks, tokens.where))
        return Reduction.from_mask(self.chosen(score, frame - frame.amin(-1, keepdim=True)))
