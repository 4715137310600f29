"""VFlowOpt: keep what matters in the encoder and carries information, recycle the rest cell by cell.

Yang et al., "VFlowOpt: A Token Pruning Framework for LMMs with Visual Information Flow-Guided Optimization", ICCV 2025.
https://arxiv.org/abs/2508.05211

Importance is attention plus the softmax of the entropy of the pixels under each token. The least important tokens are
grouped by the cells of a coarse grid; each group becomes its importance-weighted mean, in the place of its most
important member. The stages inside the LLM are the method ``vflowopt_stages``.

The paper's attention is the mean row of the encoder's global tokens (:func:`foveate.parts.context.global_rows`); here
it is the class token's row, or else what each token receives. The code groups a fixed number of tokens and meets the
budget only roughly (``variant="code"``); here the groups grow until it is met, and cells are dropped where there are
more of them than the budget. Pixels keep their range (the code wraps negative values). Tokens that end a line count as
most important.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.entropy import grey_entropy
from ..parts.merge import uneven
from ..parts.recycle import farewell, grouped, left
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="VFlowOpt: A Token Pruning Framework for LMMs with Visual Information Flow-Guided Optimization",
    url="https://arxiv.org/abs/2508.05211",
    systems=("S012",),
    needs=("cls_attention|received_attention", "pixels", "grid"),
    cost="one histogram of the pixels, a sort of n",
    vectors=("vflowopt",),
)
class VFlowOpt:
    """Selection by attention and entropy, with recycling."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of tokens left, recycled ones included")
    cell: int = option(5, Range(1, kind=int), "side in tokens of the cells that recycle")
    alpha: float = option(0.02, Range(0), "weight of the entropy")
    variant: str = option("exact", OneOf(("exact", "code")), "whether the budget is met exactly; see above")

    def importance(self, attention: Tensor, entropy: Tensor, ends: Tensor | None = None) -> Tensor:
        """attention, entropy (B, n), ends (B, n) bool of the tokens that end a line -> (B, n), higher is kept."""
        if ends is None:
            return attention.float() + self.alpha * entropy.softmax(-1)
        share = entropy.masked_fill(ends, -torch.inf).softmax(-1)
        return (attention.float() + self.alpha * share).masked_fill(ends, 1.0)

    def cells(self, grid: Tensor) -> Tensor:
        """grid (B, n, 3) of view, row and column -> (B, n) the cell of each token."""
        view, row, col = (grid + torch.tensor([0, 0, self.cell], device=grid.device)).unbind(-1)  # ends are cell 0
        row, col = row // self.cell, col // self.cell
        return (view * (row.max() + 1) + row) * (col.max() + 1) + col

    def recycled(self, importance: Tensor, cell: Tensor) -> Reduction:
        """importance, cell (B, n) -> the map."""
        n, turn = importance.shape[1], farewell(importance)
        if self.variant == "code":
            gone = n - self.keep if isinstance(self.keep, int) else round(n * (1 - self.keep))
            count = torch.full_like(turn[:, :1], min(n, max(0, gone) + n // self.cell**2))
            return uneven(grouped(turn, cell, count), importance)
        m = budget(self.keep, n)
        count = (left(turn, cell) > m).sum(-1, keepdim=True).clamp(max=n)
        return Reduction.merge(grouped(turn, cell, count, m), importance)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.cls_attention (B, H, n) or received_attention (B, n), pixels and grid -> map to m."""
        attention = tokens.need("cls_attention", "received_attention")
        attention = attention.float().mean(1) if attention.ndim == 3 else attention
        grid = tokens.need("grid")
        score = self.importance(attention, grey_entropy(tokens.need("pixels")), grid[..., 2] < 0)
        return self.recycled(score.clamp(min=torch.finfo(torch.float32).tiny), self.cells(grid))
