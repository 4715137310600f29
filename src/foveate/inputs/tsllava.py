"""TS-LLaVA: a thumbnail of a few frames, and tokens sampled evenly from all of them.

Qu et al., "TS-LLaVA: Constructing Visual Tokens through Thumbnail-and-Sampling for Training-Free Video Large Language
Models", 2024.
https://arxiv.org/abs/2411.11066

A collage of a few frames, read as one picture, shows them in some detail; single tokens taken at even steps from all
frames, without pooling, add what happens in between.

Departures: the authors lay out the thumbnail in pixels and encode it (:mod:`foveate.parts.thumbnail` does that part);
here its tokens are averages over areas of the frames it would show, as many as its share of the budget. A token that is
sampled is not averaged as well. All tokens stay in the order of time, where the authors put the thumbnail first.
"""

from __future__ import annotations

import torch

from ..method import Keep, Range, method, option
from ..parts.areas import areas, claims, seats, views
from ..parts.budget import budget
from ..parts.film import Film
from ..parts.pooling import averaged
from ..parts.spaced import apart, spaced
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="TS-LLaVA: Constructing Visual Tokens through Thumbnail-and-Sampling for Training-Free Video Large Language "
    "Models",
    url="https://arxiv.org/abs/2411.11066",
    systems=("S028",),
    needs=("grid", "features"),
    cost="two sorts of n",
    vectors=("tsllava",),
)
class TSLLaVA:
    """Pooled frames and sampled tokens."""

    keep: float | int = option(0.12, Keep(), "share (float) or number (int) of visual tokens left")
    frames: int = option(6, Range(1, kind=int), "how many frames the thumbnail shows")
    share: float = option(1 / 6, Range(0, 1), "share of the tokens left that are the thumbnail's")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.grid (B, n, 3) -> map to single tokens, and means of areas of a few frames."""
        film, n, grid = Film(tokens), tokens.n, tokens.need("grid")
        b, device = len(grid), grid.device
        m = budget(self.keep, n)
        singles = apart(n, m - round(m * self.share), device)
        alone = torch.zeros(n, dtype=torch.bool, device=device).index_fill(0, singles, True)
        shown = torch.full((b, film.frames), 1e-12, device=device)  # others are pooled where those shown are used up
        shown[:, spaced(film.frames, min(self.frames, film.frames), device)] = 1.0
        single = 2 * film.frames  # sampled tokens are a view of their own, cut into as many areas as it has tokens
        view = torch.where(alone, single, views(tokens, film))
        claim = torch.cat([claims(view[:, ~alone], shown), torch.zeros(b, 1, device=device)], 1)
        count = seats(view[:, ~alone], claim, m - len(singles))
        count[:, single] = len(singles)
        return averaged(areas(grid, view, count), tokens.size)
