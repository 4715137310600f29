"""SlowFast-LLaVA: a few frames in detail, all the others coarsely.

Xu et al., "SlowFast-LLaVA: A Strong Training-Free Baseline for Video Large Language Models", 2024.
https://arxiv.org/abs/2407.15841

A slow pathway has few frames with most of their tokens, for what is to be seen, a fast one has all frames with few
tokens each, for what moves. An image model reads both one after the other, untrained.

Departures: the number of tokens is free, and is shared between the pathways as in the published setting (10 frames at
half their tokens, 50 at 4 x 4). The frames of the slow pathway are not repeated in the fast one, all stay in the order
of time, and pooling is averaging; the element-wise maximum and the other forms of the authors' code, which training-
free baselines such as FreeVA share, are functions of :mod:`foveate.parts.aggregate`.
"""

from __future__ import annotations

import torch

from ..method import Keep, Range, method, option
from ..parts.aggregate import slow_frames
from ..parts.areas import pooled
from ..parts.budget import budget
from ..parts.film import Film
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="SlowFast-LLaVA: A Strong Training-Free Baseline for Video Large Language Models",
    url="https://arxiv.org/abs/2407.15841",
    needs=("grid", "features"),
    cost="two sorts of n",
    vectors=("slowfast",),
)
class SlowFastLLaVA:
    """Some frames pooled lightly, the others heavily."""

    keep: float | int = option(0.13, Keep(), "share (float) or number (int) of visual tokens left")
    frames: int = option(10, Range(1, kind=int), "how many frames the slow pathway has")
    share: float = option(0.78, Range(0, 1), "share of the tokens left that are the slow pathway's")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.grid (B, n, 3) -> map to means of areas."""
        film = Film(tokens)
        slow = slow_frames(film.frames, min(self.frames, film.frames))
        weight = torch.full((len(tokens.x), film.frames), (1 - self.share) / max(1, film.frames - len(slow)))
        weight[:, slow] = self.share / len(slow)
        return pooled(tokens, film, weight.to(tokens.x.device), budget(self.keep, tokens.n))
