"""VisionZip: keep the few dominant visual tokens and merge the rest into contextual ones.

Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025.
https://arxiv.org/abs/2412.04467

The tokens that the class token attends to most stay as they are. Of the others every k-th becomes a contextual token,
and each token left joins the contextual one whose key is most similar.

Departures: a contextual token is the mean of all it stands for, as the paper says; the authors' code adds the mean of
those that joined to the token itself, which doubles it (``variant="code"``). The class token, which that code also
hands to the LLM, stays out. An encoder without one gives the attention each token receives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..method import Keep, OneOf, method, option
from ..parts.budget import budget
from ..parts.merge import split
from ..parts.select import top
from ..parts.signals import attention
from ..reduction import Reduction
from ..tokens import Tokens


class Zip(NamedTuple):
    """Positions: dominant (B, d) and contextual (B, c) ones, ascending, and ``into`` (B, n) of all (-1 dropped)."""

    dominant: Tensor
    contextual: Tensor
    into: Tensor


@method(
    title="VisionZip: Longer is Better but Not Necessary in Vision Language Models",
    url="https://arxiv.org/abs/2412.04467",
    needs=("cls_attention|received_attention", "metric"),
    cost="one attention row for each head, one (n - d) x c similarity",
    vectors=("visionzip",),
)
class VisionZip:
    """Dominant tokens by attention, contextual tokens by merging."""

    keep: float | int = option(0.1, Keep(), "share (float) or number (int) of visual tokens left, both kinds together")
    contextual: float | int = option(
        0.15625, Keep(), "how many of those are contextual: a share (float) or number (int)"
    )
    variant: str = option("paper", OneOf(("paper", "code")), "how contextual tokens are made; see above")

    def zip(self, tokens: Tokens) -> Zip:
        """tokens.cls_attention (B, H, n) or received_attention (B, n), and metric (B, n, d)."""
        score, n = attention(tokens), tokens.n
        m = budget(self.keep, n)
        c = min(m - 1, budget(self.contextual, m))
        dominant = top(score, m - c)
        rest = torch.ones_like(score, dtype=torch.bool).scatter(1, dominant, False)
        rest = rest.nonzero()[:, 1].view(len(score), n - m + c)
        if not c:
            return Zip(dominant, rest[:, :0], _stay(score, dominant))
        step = max(1, rest.shape[1] // c)
        target = torch.zeros(rest.shape[1], dtype=torch.bool, device=score.device)
        target[::step][:c] = True
        match = split(tokens.need("metric"), rest[:, ~target], rest[:, target])
        return Zip(dominant, rest[:, target], match.into)

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`zip` -> map to m."""
        into = self.zip(tokens).into
        out = Reduction.merge(into)
        if self.variant == "paper" or out.selects:
            return out
        joined = (out.assign >= 0) & (into != torch.arange(tokens.n, device=into.device))
        count = joined.new_zeros(out.b, out.m, dtype=torch.float).scatter_add(
            1, out.assign.clamp(min=0), joined.float()
        )
        weight = torch.where(joined, 1 / count.gather(1, out.assign.clamp(min=0)), (out.assign >= 0).float())
        return Reduction(out.keep, out.assign, weight)


def _stay(score: Tensor, kept: Tensor) -> Tensor:
    """``into`` of a selection: kept (B, m) positions stay, the others are dropped."""
    return torch.full(score.shape, -1, device=score.device).scatter(1, kept, kept)
