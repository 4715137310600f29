"""FastVGGT: merge tokens of a geometry transformer, with the first view as the anchor of the scene.

Shen et al., "FastVGGT: Training-Free Acceleration of Visual Geometry Transformer", 2025.
https://arxiv.org/abs/2509.02560

Destinations are the whole first frame, each frame's special tokens (camera, registers: column -1 of the grid), and one
patch of each small cell of the other frames; all others are sources. A fixed part of the tokens is protected and never
merged away. The most similar sources join their destination in a plain mean; after attention each reads its
destination's result (:meth:`foveate.Reduction.expand`).

The code draws the patch of each cell at random (``seed``); by default it is the first. The paper speaks of salient
tokens as protected, the code of every tenth, which this follows. A protected destination receives others here; in the
code it is listed a second time as it was.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from ..method import Many, Range, method, option
from ..parts.merge import uneven
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="FastVGGT: Training-Free Acceleration of Visual Geometry Transformer",
    url="https://arxiv.org/abs/2509.02560",
    systems=("S021",),
    needs=("grid", "features", "size"),
    cost="one similarity of sources with destinations a block",
    vectors=("fastvggt",),
)
class FastVGGT:
    """Merging across views towards a first frame."""

    share: float = option(0.9, Range(0, 1), "share of all tokens to merge away, as far as there are sources")
    cell: tuple[int, ...] = option((2, 2), Many(Range(1, kind=int), 2), "rows and columns of a cell")
    protect: float = option(0.1, Range(0, 1), "share of tokens, evenly spread, that are never merged away")
    seed: int | None = option(None, Range(0, 2**31, int), "draw each cell's destination instead of taking its first")

    def at(self, layers: int) -> tuple[int, ...]:
        """Every block."""
        return tuple(range(layers))

    def protected(self, n: int) -> Tensor:
        """Positions that are never merged away, (int(n * protect),) int64."""
        count = int(n * self.protect)
        return torch.arange(count) * (n // max(1, count))

    def targets(self, tokens: Tokens, pick: Tensor | None = None) -> Tensor:
        """tokens.grid (B, n, 3) -> (B, n) bool, True at destinations.

        pick: (views - 1, cells down, cells across) int64, which patch of a cell is one, counted row by row.
        """
        grid = tokens.need("grid")
        first = grid[:, min(tokens.prefix, tokens.n - 1) :, 0].amin(-1, keepdim=True)
        view, row, column = (grid - pad(first[..., None], (0, 2))).unbind(-1)
        high, wide = self.cell
        place = row % high * wide + column % wide
        if pick is None:
            views, down, across = (int(t.max()) // k + 1 for t, k in ((view, 1), (row, high), (column, wide)))
            shape = (max(1, views - 1), max(1, down), max(1, across))
            pick = torch.zeros(shape, dtype=torch.long)
            if self.seed is not None:
                pick = torch.randint(high * wide, shape, generator=torch.Generator().manual_seed(self.seed))
        pick = pick.to(grid.device)
        y, x = row // high, column // wide
        cell = tuple(t.clamp(0, k - 1) for t, k in zip((view - 1, y, x), pick.shape))
        chosen = (pick[cell] == place) & (y < pick.shape[1]) & (x < pick.shape[2])
        return (view == 0) | (column < 0) | chosen

    def order(self, tokens: Tokens, target: Tensor) -> tuple[Tensor, Tensor]:
        """One row: tokens.x (1, n, D), target (1, n) -> sources by falling similarity (protected last), and theirs."""
        unit = normalize(tokens.x[0].float(), dim=-1)
        inside = torch.arange(tokens.n, device=unit.device) >= tokens.prefix
        sources, to = (~target[0] & inside).nonzero()[:, 0], (target[0] & inside).nonzero()[:, 0]
        if not len(to):
            return sources, sources
        best, choice = (unit[sources] @ unit[to].mT).max(-1)
        spared = torch.isin(sources, self.protected(tokens.n).to(sources.device))
        rank = best.masked_fill(spared, -torch.inf).argsort(stable=True, descending=True)
        return sources[rank], to[choice[rank]]

    def into(self, tokens: Tokens, target: Tensor) -> Tensor:
        """tokens.x (B, n, D), target (B, n) bool -> (B, n), the position that each token merges into."""
        rows = torch.arange(tokens.n, device=target.device).repeat(len(target), 1)
        spared = self.protected(tokens.n).to(target.device)
        for b in range(len(target)):
            source, to = self.order(tokens.with_(x=tokens.x[b : b + 1]), target[b : b + 1])
            r = min(int(tokens.n * self.share), len(source) - int(torch.isin(source, spared).sum()))
            rows[b, source[:r]] = to[:r]
        return rows

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), tokens.grid (B, n, 3), tokens.size (B, n) -> merge, each row by its own grid."""
        return uneven(self.into(tokens, self.targets(tokens)), tokens.size)
