"""HiPrune: keep what the encoder's middle layers look at, its neighbours, and what its deep layers look at.

Liu et al., "HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models", 2025.
https://arxiv.org/abs/2508.00553

Middle layers attend to objects, deep ones to global context. Anchors are the tokens that receive most attention in a
middle layer, buffers their four spatial neighbours; both together take the share ``alpha`` of the budget. Registers,
the best of the rest by attention received in the deepest layer read, fill it up.

Written from the paper: there is at least one anchor unless alpha is 0, buffers that do not fit go by their attention in
the middle layer, and a class token's attention stands in where no received attention is given.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models",
    url="https://arxiv.org/abs/2508.00553",
    needs=("received_layers|cls_layers", "grid"),
    cost="sorts of n, anchors x n comparisons of cells",
)
class HiPrune:
    """Anchors, buffers and registers."""

    keep: float | int = option(1 / 3, Keep(), "share (float) or number (int) of visual tokens to keep")
    alpha: float = option(0.1, Range(0, 1), "share of the kept tokens that are anchors and their neighbours")
    layer: float = option(0.375, Range(0, 1), "depth of the middle layer as a share of the encoder (9 of 24)")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.received_layers or cls_layers (B, L, n), grid (B, n, 3) -> selection of m."""
        seen = tokens.need("received_layers", "cls_layers").float()
        middle, deep = seen[:, round(self.layer * (seen.shape[1] - 1))], seen[:, -1]
        m = budget(self.keep, tokens.n)
        anchors = min(m, max(round(self.alpha * m / 5), int(self.alpha > 0)))
        first = middle.argsort(stable=True, dim=-1, descending=True)[:, :anchors]
        tier = neighbours(tokens.need("grid"), first).long().scatter(1, first, 2)  # (B, n): 2 anchor, 1 buffer
        score = torch.where(tier > 0, middle, deep)
        order = score.argsort(stable=True, dim=-1, descending=True)
        order = order.gather(1, tier.gather(1, order).argsort(stable=True, dim=-1, descending=True))
        return Reduction.take(order[:, :m], tokens.n)


def neighbours(grid: Tensor, at: Tensor) -> Tensor:
    """Tokens whose cell shares an edge with that of one of ``at``. grid (B, n, 3), at (B, a) -> (B, n) bool."""
    here = grid.gather(1, at[..., None].expand(-1, -1, 3))
    step = (grid[:, None] - here[:, :, None]).abs()  # (B, a, n, 3)
    inside = (grid[:, None, :, 2] >= 0) & (here[:, :, None, 2] >= 0)  # line ends are next to nothing
    return ((step[..., 0] == 0) & (step[..., 1] + step[..., 2] == 1) & inside).any(1)
