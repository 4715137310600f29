"""GridPool: average squares of neighbouring visual tokens, frame by frame, on a grid of any shape.

Cai et al., "Matryoshka Multimodal Models", ICLR 2025.
https://arxiv.org/abs/2405.17430

The fixed 2-D pooling that much of the field uses, of which the paper's nested token sets are the square case. Squares
of stride x stride tokens are averaged into their first token; those at the right and lower edges average what there is.
Frames never mix, and ends of lines are averaged over the lines of a square.

Departure from the paper: its code drops rows and columns that do not fill a square.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Range, method, option
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Matryoshka Multimodal Models",
    url="https://arxiv.org/abs/2405.17430",
    needs=("grid",),
    cost="one pass over the tokens, a sort of n",
)
class GridPool:
    """Average pooling over squares of the grid."""

    stride: int = option(2, Range(1, kind=int), "side of the squares")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.grid (B, n, 3) -> map to one mean for each square."""
        square = tokens.need("grid").clone()
        square[..., 1:] = square[..., 1:].div(self.stride, rounding_mode="floor")  # an end of line stays in column -1
        sizes = [None] * len(square) if tokens.size is None else list(tokens.size[:, None])
        return Reduction.stack([Reduction.merge(_first(s)[None], size) for s, size in zip(square, sizes)])


def _first(square: Tensor) -> Tensor:
    """square (n, 3) -> (n,) the first position of each token's square."""
    which = square.unique(dim=0, return_inverse=True)[1]
    at = torch.arange(len(square), device=square.device)
    first = torch.full_like(at, len(square)).scatter_reduce(0, which, at, "amin")
    return first[which]
