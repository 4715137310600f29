"""TDC: in every scene now and then a frame stays whole, and the frames after it become a few context tokens.

Hao et al., "Multimodal Long Video Modeling Based on Temporal Dynamic Context", 2025.
https://arxiv.org/abs/2504.10443

A video is cut where neighbouring frames are least alike, and each scene is walked in chunks of eight frames: the first
one is static context and keeps its tokens; from the others a query transformer, asked by that frame, makes a few
tokens of dynamic context.

Here, without training, those tokens are means of runs: the tokens after a key frame, in order, are cut into equally
long runs, so that a generous share pools each frame by itself and a small one averages frames together. They take at
most the share ``context`` of the budget where key frames need the rest; should key frames be too many even so, their
tokens are pooled in runs too. Frames are compared by the tokens at hand (the authors use a second encoder), and neither
audio nor the prompt takes part.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..parts.film import Film, segments
from ..parts.regions import group_sizes
from ..parts.runs import run_means, shares
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Multimodal Long Video Modeling Based on Temporal Dynamic Context",
    url="https://arxiv.org/abs/2504.10443",
    systems=("S040",),
    needs=("grid",),
    cost="one pass over the tokens, a sort of n",
    vectors=("tdc",),
)
class TDC:
    """Static key frames and pooled context."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of tokens left")
    cuts: int = option(24, Range(0, kind=int), "how many times a video is cut, at most between all frames")
    chunk: int = option(8, Range(1, kind=int), "how many frames a key frame stands for, itself included")
    context: float = option(0.5, Range(0, 1), "share of the budget that context tokens may take from key frames")

    def cut(self, likeness: Tensor) -> Tensor:
        """Where scenes end. likeness (B, F - 1) of neighbouring frames, inf where there is none -> (B, F - 1) bool."""
        rank = likeness.argsort(stable=True, dim=-1).argsort(dim=-1)
        return (rank < self.cuts) & (likeness < torch.inf)

    def place(self, scene: Tensor) -> Tensor:
        """The place of each frame in its chunk, 0 for key frames. scene (B, F) int64 -> (B, F)."""
        at = torch.arange(scene.shape[1], device=scene.device).expand_as(scene)
        opens = torch.ones_like(scene, dtype=torch.bool)
        opens[:, 1:] = scene[:, 1:] != scene[:, :-1]
        return (at - torch.where(opens, at, 0).cummax(-1).values) % self.chunk

    def frame_likeness(self, x: Tensor, film: Film) -> Tensor:
        """Cosine of whole frames with the next one that holds a token: x (B, n, D) -> (B, F - 1), frames packed."""
        flat = normalize(film.laid(x.float()).flatten(2), dim=-1)
        flat = flat.gather(1, self._packed(film)[..., None].expand_as(flat))
        pair = torch.arange(1, film.frames, device=x.device) < (film.sizes > 0).sum(-1, keepdim=True)
        return (flat[:, 1:] * flat[:, :-1]).sum(-1).masked_fill(~pair, torch.inf)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), tokens.grid (B, n, 3) -> map to m tokens."""
        m, film = budget(self.keep, tokens.n), Film(tokens)
        place = self.place(segments(self.cut(self.frame_likeness(tokens.x, film))))
        group = 2 * ((place == 0).cumsum(-1) - 1) + (place > 0).long()  # of packed frames: key frame, its followers
        group = torch.zeros_like(group).scatter(1, self._packed(film), group).gather(1, film.frame)
        sizes = group_sizes(group, 2 * film.frames)
        whole, rest = sizes[:, ::2], sizes[:, 1::2]
        static = torch.minimum(whole.sum(-1), m - rest.sum(-1).clamp(max=round(self.context * m)))
        counts = torch.stack([shares(whole, static), shares(rest, m - static)], -1).flatten(1)
        return Reduction.merge(run_means(group, counts), tokens.size)

    @staticmethod
    def _packed(film: Film) -> Tensor:
        """Frames that hold tokens first, in order: (B, F)."""
        return (film.sizes == 0).to(torch.uint8).argsort(stable=True, dim=-1)
