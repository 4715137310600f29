"""HoliTom, inside the LLM: half of the visual tokens are folded into the half that the prompt's last token looks at.

Shao et al., "HoliTom: Holistic Token Merging for Fast Video Large Language Models", NeurIPS 2025.
https://arxiv.org/abs/2505.21334

Before one layer, visual tokens are ranked by the attention that the prompt's last token paid them in the layer before.
Each token below the budget goes to the most similar one above it, which becomes the mean of itself and the newcomer; of
several newcomers the last therefore counts most, as in the authors' code. What happens before the LLM is the method
``holitom``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..parts.merge import split
from ..parts.stages import starts
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="HoliTom: Holistic Token Merging for Fast Video Large Language Models",
    url="https://arxiv.org/abs/2505.21334",
    systems=("S031",),
    needs=("last_attention",),
    cost="one attention row for each head of one layer, one (n - m) x m similarity",
    vectors=("holitom",),
)
class HoliTomMerge:
    """Selection by the last token's attention; the others are folded in."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of visual tokens left")
    layer: int | None = option(
        None, Range(1, kind=int), "merge before this layer (0-based); default: at 18 of 28, as in the paper"
    )

    def at(self, layers: int) -> tuple[int, ...]:
        """Before one layer."""
        return starts(None if self.layer is None else (self.layer,), (18 / 28,), layers)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.last_attention (B, H, n) -> weighted means of m groups."""
        score, n = tokens.need("last_attention").float().mean(1), tokens.n
        m = budget(self.keep, n)
        if m == n:
            return Reduction.identity(len(score), n, score.device)
        order = score.argsort(stable=True, dim=-1, descending=True)
        kept, gone = order[:, :m].sort(-1).values, order[:, m:].sort(-1).values
        into = split(tokens.x, gone, kept).into
        r = Reduction.merge(into)
        return Reduction(r.keep, r.assign, folded(into))


def folded(into: Tensor) -> Tensor:
    """Shares when a token becomes the mean of itself and each newcomer in turn, from left to right. into (B, n)."""
    b, n = into.shape
    at = torch.arange(n, device=into.device).expand(b, n)
    order = (2 * into + (into != at)).argsort(stable=True, dim=-1)  # by group, the one that stays first
    group = into.gather(1, order)
    last = torch.ones_like(group, dtype=torch.bool)
    last[:, :-1] = group[:, 1:] != group[:, :-1]
    end = torch.where(last, at, n).flip(1).cummin(1).values.flip(1)
    later = torch.empty_like(order).scatter(1, order, end - at)  # how many of the group come after each
    return 0.5 ** (later + (into != at)).float()
