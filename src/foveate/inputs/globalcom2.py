"""GlobalCom2: let the thumbnail decide how much of each crop is kept, and help to decide what.

Liu et al., "Global Compression Commander: Plug-and-Play Inference Acceleration for High-Resolution Large
Vision-Language Models", AAAI 2026.
https://arxiv.org/abs/2501.05179

The class token's attention on the thumbnail tells which regions matter: crops there keep more. Inside a crop a token
scores by its own class attention and by that of the thumbnail at the same place, both scaled to length 1. Line ends
always stay. An image without crops is one ranking.

As in the authors' code attention is taken before the softmax; an encoder without a class token gives the logarithm of
what each token receives. Departure: the budget is met exactly, seat by seat, line ends included; the code rounds the
number of every crop down and does not count them (``variant="code"``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.quota import share_out
from ..parts.regions import best_in_groups, blocks, group_sizes, upsampled
from ..parts.signals import finite
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Global Compression Commander: Plug-and-Play Inference Acceleration for High-Resolution Large "
    "Vision-Language Models",
    url="https://arxiv.org/abs/2501.05179",
    systems=("S001",),
    needs=("cls_logits|received_attention", "crop", "grid"),
    cost="one attention row, sorts of n",
    vectors=("globalcom2",),
)
class GlobalCom2:
    """Budgets for the crops of an image from its thumbnail, then selection by both."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of visual tokens to keep")
    temperature: float = option(10.0, Range(0, open_low=True), "how evenly crops share: higher is more even")
    variant: str = option("exact", OneOf(("exact", "code")), "how numbers are rounded; see above")

    def logits(self, tokens: Tokens) -> Tensor:
        """tokens.cls_logits (B, n), or the logarithm of received_attention around the thumbnail's mean -> (B, n)."""
        if tokens.cls_logits is not None:
            return finite(tokens.cls_logits.float())
        received = finite(tokens.need("cls_logits", "received_attention").float())
        log = (received / received.amax(-1, keepdim=True)).nan_to_num(1.0).clamp(min=1e-9).log()
        thumb = tokens.need("crop") == 0
        return log - (log * thumb).sum(-1, keepdim=True) / thumb.sum(-1, keepdim=True).clamp(min=1)

    def scales(self, tokens: Tokens) -> Tensor:
        """How much more than the average each part keeps: (B, 1 + crops), 1 at the thumbnail."""
        crop = tokens.need("crop")
        block = blocks(tokens.need("grid"), crop)
        count = int(crop.max().clamp(min=0))
        total = torch.zeros(len(crop), count + 1, device=crop.device).scatter_add(1, block, self.logits(tokens))[:, 1:]
        there = torch.arange(1, count + 1, device=crop.device) <= crop.amax(-1, keepdim=True)
        share = (total / self.temperature).masked_fill(~there, -torch.inf).softmax(-1).nan_to_num(0.0)
        mean = share.sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp(min=1)
        return torch.cat([torch.ones_like(crop[:, :1]), 1 + share - mean], 1)

    def score(self, tokens: Tokens) -> Tensor:
        """(B, n), higher is kept; comparable within the thumbnail and within each crop."""
        own, crop, grid = self.logits(tokens), tokens.need("crop"), tokens.need("grid")
        both = _unit(own, crop) + _unit(upsampled(own, grid, crop), crop)
        return torch.where(crop > 0, both, own)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.cls_logits or received_attention (B, n), crop (B, n), grid (B, n, 3) -> selection of m."""
        crop, score, scales = tokens.need("crop"), self.score(tokens), self.scales(tokens)
        sizes = group_sizes(torch.where(crop < 0, scales.shape[1], crop), scales.shape[1] + 1)[:, :-1]
        if self.variant == "code":
            rate = self.keep if isinstance(self.keep, float) else self.keep / tokens.n
            counts = (sizes * (rate * scales).clamp(max=1)).long()
            counts[:, 0] = (sizes[:, 0].double() * rate).long()
            return Reduction.from_mask(_kept(score, crop, counts) | (crop < 0))
        claim = torch.cat([sizes * scales, torch.full_like(scales[:, :1], 1e9)], 1)  # line ends before everything
        group = torch.where(crop < 0, scales.shape[1], crop)
        return Reduction.from_mask(share_out(score, group, claim.clamp(min=1e-9), budget(self.keep, tokens.n)))


def _kept(score: Tensor, crop: Tensor, counts: Tensor) -> Tensor:
    """The best of each part; line ends are in none."""
    group = torch.where(crop < 0, counts.shape[1], crop)
    return best_in_groups(score, group, torch.cat([counts, torch.zeros_like(counts[:, :1])], 1))


def _unit(score: Tensor, crop: Tensor) -> Tensor:
    """Scaled to length 1 within each part."""
    part = crop.clamp(min=0)
    square = torch.zeros(len(crop), int(part.max()) + 1, device=crop.device).scatter_add(1, part, score.square())
    return score / square.sqrt().gather(1, part).clamp(min=1e-12)
