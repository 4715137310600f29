"""VideoScan: one token for each frame, its semantic carrier, in a memory of bounded length.

Li et al., "VideoScan: Enabling Efficient Streaming Video Understanding via Frame-level Semantic Carriers", 2025.
https://arxiv.org/abs/2503.09387

A frame's carrier is the mean of its tokens and stands at its end; the model reads the frame into it, and then only the
carrier is left. When the memory is full, the two neighbours that are most alike lose the earlier one. A variant keeps
a few more tokens of each frame, those that the carrier attends to most.

This is the part that needs no training: carriers replace the tokens before the LLM (the authors tune the model to let
each frame be read once, with the mask of ``parts.carriers``), and "attends to" is the cosine with the carrier. As in
the authors' code the memory is full once it holds ``memory`` carriers, so one fewer is left; unlike there, that also
goes for the last frame.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..method import Range, method, option
from ..parts.carriers import remember
from ..parts.film import Film
from ..parts.regions import best_in_groups
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="VideoScan: Enabling Efficient Streaming Video Understanding via Frame-level Semantic Carriers",
    url="https://arxiv.org/abs/2503.09387",
    systems=("S038",),
    needs=("grid",),
    cost="one pass over the tokens, a similarity of every two frames",
    vectors=("videoscan",),
)
class VideoScan:
    """Frame-level semantic carriers."""

    memory: int = option(64, Range(2, kind=int), "how many carriers make the memory full")
    extra: int = option(0, Range(0, kind=int), "how many more tokens of each frame stay, those most like its carrier")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), tokens.grid (B, n, 3) -> map to the carriers left and their frames' extra tokens."""
        film, n = Film(tokens), tokens.n
        means = film.means(tokens.x)  # (B, F, D)
        lives = torch.zeros_like(film.sizes, dtype=torch.bool)
        for b, size in enumerate(film.sizes):
            frames = size.nonzero()[:, 0]
            held, _ = remember(means[b, frames], self.memory)
            lives[b, frames[held]] = True
        at = torch.arange(n, device=film.frame.device).expand_as(film.frame)
        last = torch.full_like(film.sizes, -1).scatter_reduce(1, film.frame, at, "amax").gather(1, film.frame)
        stays = lives.gather(1, film.frame)
        carrier = stays & (last == at)
        if not self.extra:
            return Reduction.stack([Reduction.merge(i[None]) for i in last.masked_fill(~stays, -1)])
        others = self._others(tokens.x, means, film, stays & ~carrier)
        return Reduction.stack([self._mixed(*row) for row in zip(film.frame, carrier, others, stays)])

    def _others(self, x: Tensor, means: Tensor, film: Film, free: Tensor) -> Tensor:
        """Which tokens stay beside the carriers, (B, n) bool."""
        own = means.gather(1, film.frame[..., None].expand_as(x))
        like = (normalize(x.float(), dim=-1) * normalize(own, dim=-1)).sum(-1)
        return best_in_groups(like.masked_fill(~free, -2), film.frame, (film.sizes - 1).clamp(0, self.extra)) & free

    @staticmethod
    def _mixed(frame: Tensor, carrier: Tensor, others: Tensor, stays: Tensor) -> Reduction:
        """One row, each (n,): carriers average all of their frame, and the others are themselves."""
        keep = (carrier | others).nonzero()[:, 0]
        whole = ((frame[keep, None] == frame) & stays).float()
        whole = whole / whole.sum(-1, keepdim=True)
        alone = (keep[:, None] == torch.arange(len(frame), device=keep.device)).float()
        return Reduction.dense(torch.where(carrier[keep, None], whole, alone)[None], keep[None])
