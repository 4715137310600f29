"""VidCom2: frames unlike the rest of the video keep more tokens, and of each frame stay those that stand out.

Liu et al., "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models",
EMNLP 2025.
https://arxiv.org/abs/2505.14454

Tokens are compared, by Gaussians of five widths, with the mean token of the video and with that of their frame, in the
half of the channels that vary least. A frame's share is the budget times 1 + p - mean p, p the softmax over frames of
their unlikeness to the video; in it stay the tokens least like both means.

The choice of channels is that of the authors' newer code. The budget is met exactly, shared among the frames in these
proportions; ``variant="code"`` rounds each frame's share on its own and leaves every frame at least one token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.film import Film
from ..parts.quota import share_out
from ..parts.ranks import ranks
from ..reduction import Reduction
from ..tokens import Tokens

WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)


class Likeness(NamedTuple):
    """Of each token to the video's mean and to its frame's mean, (B, n) each, and the frames' shares (B, F)."""

    video: Tensor
    frame: Tensor
    shares: Tensor


@method(
    title="Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models",
    url="https://arxiv.org/abs/2505.14454",
    needs=("grid", "features"),
    cost="a few passes over the tokens, sorts of n",
    vectors=("vidcom2",),
)
class VidCom2:
    """Selection by uniqueness of frames and of tokens."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of the clip's tokens to keep")
    channels: float = option(0.5, Range(0, 1, open_low=True), "share of the channels, the least varying, that count")
    temperature: float = option(0.01, Range(0, open_low=True), "of the softmax over frames")
    variant: str = option("exact", OneOf(("exact", "code")), "how shares become numbers; see above")

    def likeness(self, tokens: Tokens, film: Film) -> Likeness:
        """tokens.x (B, n, D) -> likeness of the tokens and shares of the frames."""
        unit = normalize(steady(tokens.x.float(), self.channels), dim=-1)
        video = gaussian(unit, unit.mean(1, keepdim=True))[..., 0]
        frame = gaussian(unit, film.means(unit)).gather(2, film.frame[..., None])[..., 0]
        there = film.sizes > 0
        unlike = -film.means(video[..., None])[..., 0].masked_fill(~there, torch.inf)
        p = (unlike / self.temperature).softmax(-1)
        mean = p.sum(-1, keepdim=True) / there.sum(-1, keepdim=True)
        ratio = self.keep if isinstance(self.keep, float) else min(1.0, self.keep / tokens.n)
        return Likeness(video, frame, (ratio * (1 + p - mean)).clamp(max=1))

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), grid (B, n, 3) -> selection of m."""
        film = Film(tokens)
        found = self.likeness(tokens, film)
        score = -(found.video + found.frame)
        if self.variant == "code":
            most = (found.shares * film.sizes).round().long().clamp(min=1)
            return Reduction.from_mask(ranks(score, film.frame) < most.gather(1, film.frame))
        claim = (found.shares * film.sizes).clamp(min=1e-6)
        return Reduction.from_mask(share_out(score, film.frame, claim, budget(self.keep, tokens.n)))


def steady(x: Tensor, share: float) -> Tensor:
    """The channels that vary least over the tokens. x (B, n, D) -> (B, n, d), d a share of D, rounded down."""
    d = max(1, int(x.shape[-1] * share))
    spread = (x - x.mean(1, keepdim=True)).square_().mean(1)
    best = spread.argsort(stable=True, dim=-1)[:, :d].sort(-1).values
    return torch.stack([row.index_select(1, at) for row, at in zip(x, best)])


def gaussian(unit: Tensor, centres: Tensor) -> Tensor:
    """Sum of Gaussians of the distance to each centre. unit (B, n, d) of length 1 or 0, (B, c, d) -> (B, n, c)."""
    lengths = unit.square().sum(-1)[..., None] + centres.square().sum(-1)[:, None]
    apart = (lengths - 2 * unit @ centres.mT).clamp(min=0)
    return torch.stack([torch.exp(-apart / (2 * width)) for width in WIDTHS]).sum(0)
