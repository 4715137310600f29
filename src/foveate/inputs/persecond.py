"""PerSecond: tokens that lie at one place in the frames of one second become their mean.

Li et al., "Improving LLM Video Understanding with 16 Frames Per Second", ICML 2025.
https://arxiv.org/abs/2503.13956

F-16 reads sixteen frames a second and compresses every one-second clip to the tokens of one frame, so that a fast video
costs no more than a slow one. Its aligner is learnt; here tokens of a place are averaged over time, and over squares of
the grid as well if ``pool`` says so. Seconds are counted from the first frame.

Written from the paper; the number of tokens follows from the length of the clip.
"""

from __future__ import annotations

import torch

from ..method import Range, method, option
from ..parts.pooling import averaged
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Improving LLM Video Understanding with 16 Frames Per Second",
    url="https://arxiv.org/abs/2503.13956",
    systems=("S039",),
    needs=("grid", "times"),
    cost="one pass over the tokens",
)
class PerSecond:
    """Averages over time within each second."""

    seconds: float = option(1.0, Range(0, open_low=True), "how long the stretches are that become one frame")
    pool: int = option(1, Range(1, kind=int), "side of the squares of the grid that are averaged too")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.grid (B, n, 3), tokens.times (B, n) -> map to one mean for each stretch and square."""
        grid, times = tokens.need("grid"), tokens.need("times").double()
        if not tokens.n:
            return Reduction.identity(len(grid), 0, grid.device)
        since = times - times.amin(-1, keepdim=True)
        stretch = (since / self.seconds + 1e-4).floor().long()  # a time may be rounded just below its second
        row, column = grid[..., 1:].div(self.pool, rounding_mode="floor").unbind(-1)  # line ends stay at -1
        wide, high = int(column.max()) + 2, int(row.max()) - int(row.min()) + 1
        cell = (stretch * high + row - row.min()) * wide + column + 1
        return averaged(torch.unique(cell, return_inverse=True)[1], tokens.size)
