"""HiRED: share a fixed budget among thumbnail and crops by what the encoder finds where, then keep the best of each.

Arif et al., "HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution Vision-Language
Models", AAAI 2025.
https://arxiv.org/abs/2408.10945

In an early layer the class token attends to content: the share of the thumbnail's most attended tokens that lies in a
crop's region is that crop's share. In a late layer it attends to what carries information: the best tokens of each part
by that attention stay. Line ends always stay, within the budget. An image without crops is one part.

Departures: the authors' code cuts the thumbnail's list of tokens into runs, not regions, and rounds every share down,
so that less is kept than asked for (``variant="code"``); here the budget is met, seat by seat. An encoder without a
class token gives the attention each token receives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.quota import share_out
from ..parts.regions import best_in_groups, blocks, group_sizes, runs
from ..parts.signals import layer_attention
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution Vision-Language Models",
    url="https://arxiv.org/abs/2408.10945",
    needs=("cls_layers|received_layers", "crop", "grid"),
    cost="two attention rows for each head, sorts of n",
    vectors=("hired",),
)
class HiRED:
    """Budgets for the crops of an image, then selection by class-token attention."""

    keep: float | int = option(0.2, Keep(), "share (float) or number (int) of visual tokens to keep")
    alpha: float = option(0.5, Range(0, 1), "share of the budget for the thumbnail")
    variant: str = option("paper", OneOf(("paper", "code")), "how the budget is shared; see above")

    def votes(self, tokens: Tokens) -> Tensor:
        """How many of the thumbnail's most attended tokens in the first layer fall to each part -> (B, 1 + crops)."""
        early, crop = layer_attention(tokens)[:, 0], tokens.need("crop")
        thumb = crop == 0
        rank = early.masked_fill(~thumb, -torch.inf).argsort(stable=True, dim=-1, descending=True).argsort(dim=-1)
        voters = thumb & (rank < _part(thumb.sum(-1, keepdim=True), 1 - self.alpha))
        region = runs(crop) if self.variant == "code" else blocks(tokens.need("grid"), crop)
        votes = torch.zeros(len(crop), int(crop.max().clamp(min=0)) + 1, device=crop.device)
        return votes.scatter_add(1, region, voters.float())

    def counts(self, tokens: Tokens) -> Tensor:
        """The code's budget of each part: (B, 1 + crops) int64."""
        crop, votes = tokens.need("crop"), self.votes(tokens)[:, 1:]
        sizes = group_sizes(crop.clamp(min=0), votes.shape[1] + 1)
        sizes[:, 0] -= (crop < 0).sum(-1)
        whole = sizes.sum(-1, keepdim=True)
        total = _part(whole, self.keep) if isinstance(self.keep, float) else whole.clamp(max=self.keep)
        if int(total.sum()) == int(whole.sum()):
            return sizes
        thumb = torch.minimum(_part(total, self.alpha), sizes[:, :1])
        share = votes / votes.sum(-1, keepdim=True).clamp(min=1)
        return torch.cat([thumb, torch.minimum((share * (total - thumb)).long(), sizes[:, 1:])], 1)

    def reduce(self, tokens: Tokens) -> Reduction:
        """The first and the last of tokens.cls_layers (B, L, n), crop (B, n), grid (B, n, 3) -> selection of m."""
        late, crop = layer_attention(tokens)[:, -1], tokens.need("crop")
        if self.variant == "code":
            kept = best_in_groups(late, crop.clamp(min=0), self.counts(tokens))
            return Reduction.from_mask(kept | (crop < 0))
        votes = self.votes(tokens)
        claim = (1 - self.alpha) * votes / votes.sum(-1, keepdim=True).clamp(min=1)
        claim[:, 0] = self.alpha
        ends = torch.full_like(claim[:, :1], 1e9)  # the last group: line ends come before everything
        group = torch.where(crop < 0, claim.shape[1], crop)
        m = budget(self.keep, tokens.n)
        return Reduction.from_mask(share_out(late, group, torch.cat([claim.clamp(min=1e-9), ends], 1), m))


def _part(count: Tensor, share: float) -> Tensor:
    """A share of an integer, rounded down."""
    return (count.double() * share).long()
