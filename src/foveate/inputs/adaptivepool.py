"""AdaptivePool: average the grid of visual tokens down to any number of cells of about equal size and shape.

Cha et al., "Honeybee: Locality-enhanced Projector for Multimodal LLM", CVPR 2024.
https://arxiv.org/abs/2312.06742

Honeybee's abstractor gets its freedom in the number of visual tokens from adaptive average pooling, which keeps what
lies together together; this is that pooling without the convolutions around it.

Departures: cells do not overlap where the grid does not divide, and the number need not be a square: the grid is cut
into bands of rows and each band into as many cells as meet the budget. Views share it by their size; line ends are a
view of one column.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, method, option
from ..parts.budget import budget
from ..parts.pooling import Places, averaged
from ..parts.quota import share_out
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Honeybee: Locality-enhanced Projector for Multimodal LLM",
    url="https://arxiv.org/abs/2312.06742",
    needs=("grid|features",),
    cost="one pass over the tokens",
)
class AdaptivePool:
    """Adaptive average pooling over the grid."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of tokens left after pooling")

    def cells(self, tokens: Tokens) -> Tensor:
        """The cell of each token, numbered in all views together, -1 in views without one: (B, n)."""
        places = Places(tokens)
        at = places.view
        flat, sizes = torch.zeros(at.shape, device=at.device), places.sizes()
        seats = share_out(flat, at, sizes.clamp(min=1).float(), budget(self.keep, tokens.n))
        m = torch.zeros_like(sizes).scatter_add(1, at, seats.long()).gather(1, at)  # cells of the token's view
        high, wide, some = places.high, places.wide, m.clamp(min=1)
        bands = (some * high / wide).sqrt().round().long()
        bands = torch.minimum(torch.maximum(bands, (some + wide - 1) // wide), torch.minimum(high, some)).clamp(min=1)
        band = places.row * bands // high
        start, stop = some * band // bands, some * (band + 1) // bands  # cells of this band, counted in its view
        cell = start + places.column * (stop - start) // wide
        return _filled(places, band, cell, m)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.grid (B, n, 3), or else the grid nearest to a square -> map to m means."""
        return averaged(self.cells(tokens), tokens.size)


def _filled(places: Places, band: Tensor, cell: Tensor, m: Tensor) -> Tensor:
    """Cells numbered in all views together, (B, n), none of them empty; all arguments too, m: cells of the view.

    Where tokens are missing from the grid a cell may hold none; that view's tokens are then dealt out evenly, in the
    order of bands and columns.
    """
    b, n = cell.shape
    view, at = places.view, places.view * n + cell.clamp(min=0)
    used = torch.zeros(b, places.views * n + n, device=cell.device).scatter(1, at, 1.0)
    held = torch.zeros(b, places.views + 1, device=cell.device)
    held = held.scatter_add(1, torch.arange(used.shape[1], device=cell.device).expand(b, -1) // n, used)
    size = places.sizes().gather(1, view)
    wide = int(places.wide.max()) + 1 if n else 1
    order = ((view * n + band) * wide + places.column).argsort(stable=True, dim=-1)
    sizes = places.sizes()
    rank = torch.empty_like(order).scatter(1, order, torch.arange(n, device=cell.device).expand(b, n))
    rank = rank - (sizes.cumsum(1) - sizes).gather(1, view)
    even = rank * m // size.clamp(min=1)
    cell = torch.where(held.gather(1, view).long() < m, even, cell)
    return (view * n + cell).masked_fill(m == 0, -1)
