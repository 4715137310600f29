"""GRT (frames): frames in which hardly anything moved are never encoded.

Zhang et al., "Dense Video Understanding with Gated Residual Tokenization", 2025.
https://arxiv.org/abs/2509.14199

GRT opens a gate for patches whose pixels changed, before they are embedded. Towers of transformers models take whole
frames, so what can be spared before the encoder is a frame: it stays when enough of its blocks changed. Sparing single
patches after the tower is ``grt``.

Departures: motion is the difference of the blocks' mean colours, without vectors. A frame is compared with the last
frame that stayed, not with the one before, so slow drift adds up until it shows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Range, method, option
from ..parts.frame_change import blocks
from ..parts.spaced import apart
from ..reduction import Reduction
from ..tokens import Tokens

CELLS = 8  # blocks on the side of a frame


@method(
    title="Dense Video Understanding with Gated Residual Tokenization",
    url="https://arxiv.org/abs/2509.14199",
    systems=("S042",),
    needs=("pixels",),
    cost="one pass over small pictures",
)
class GRTFrames:
    """Frames that move."""

    threshold: float = option(12.0, Range(0), "change of a block's mean colour that counts, of 255")
    cut: float = option(0.1, Range(0, 1), "share of changed blocks above which a frame stays")
    frames: int = option(768, Range(1, kind=int), "at most so many, evenly thinned out")

    def moved(self, cells: Tensor) -> Tensor:
        """cells (T, blocks, 3) -> (T,) bool: the frame stays; the first always does."""
        kept = torch.zeros(len(cells), dtype=torch.bool, device=cells.device)
        last = 0
        for t in range(len(cells)):
            change = (cells[t] - cells[last]).abs().amax(-1) > self.threshold
            if t == 0 or float(change.float().mean()) > self.cut:
                kept[t], last = True, t
        return kept

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.pixels (B, T, 3, h, w) -> selection of frames."""
        kept = torch.stack([self.moved(row) for row in blocks(tokens.need("pixels"), CELLS)])
        for row in kept:
            found = row.nonzero()[:, 0]
            if len(found) > self.frames:
                row.fill_(False)[found[apart(len(found), self.frames, found.device)]] = True
        return Reduction.from_mask(kept)
