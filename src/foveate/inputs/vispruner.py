"""VisPruner: half of the budget for tokens the encoder looks at, half for tokens unlike each other.

Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs", ICCV 2025.
https://arxiv.org/abs/2412.01818

Text-visual attention in the LLM drifts and spreads; visual cues are steadier. The important tokens are those with the
highest class-token attention; near-duplicates are removed from the others, a few a round, until the budget is met.

As the authors' code: places of the list alternate between candidates and what they are compared with, at most 8 leave
in a round. Sequences longer than the code's 576 tokens lose proportionally more a round, and an odd number is no error.
Departures: the tokens compared are those the LLM reads, not the encoder's features before the projector; an encoder
without a class token gives the attention each token receives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..parts.signals import attention
from ..parts.thin import thin
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs",
    url="https://arxiv.org/abs/2412.01818",
    needs=("cls_attention|received_attention",),
    cost="one n x n similarity, at most 72 rounds of n x n / 4 comparisons",
    vectors=("vispruner",),
)
class VisPruner:
    """Selection by attention, then by diversity."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of visual tokens to keep")
    important: float = option(0.5, Range(0, 1), "share of those that attention chooses")
    step: int | None = option(
        None, Range(1, kind=int), "tokens removed in a round; default 8, and more above 576 tokens"
    )

    def pick(self, tokens: Tokens) -> Tensor:
        """tokens.x (B, n, D), cls_attention (B, H, n) or received_attention (B, n) -> (B, m), important ones first."""
        n = tokens.n
        m = budget(self.keep, n)
        first = int(m * self.important)
        order = attention(tokens).argsort(stable=True, dim=-1, descending=True)
        rest = order[:, first:]
        x = tokens.x.gather(1, rest[..., None].expand(-1, -1, tokens.x.shape[-1]))
        unlike = thin(x, m - first, self.step or max(8, n // 72))
        return torch.cat([order[:, :first], rest.gather(1, unlike)], 1)

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`pick` -> selection of m."""
        return Reduction.take(self.pick(tokens), tokens.n)
