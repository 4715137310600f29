"""Scene change: cut where the picture changes most, and show the middle of every scene.

Soucek et al., "TransNet: A deep network for fast detection of common shot transitions", 2019.
https://arxiv.org/abs/1906.03363

A scene needs one frame however long it is. The paper learns where shots end; this is the detector that such networks
are compared with and that needs no weights: the difference of the pixels of neighbouring frames. There are as many
scenes as frames are wanted, the strongest cuts first.
"""

from __future__ import annotations

import torch

from ..method import Range, method, option
from ..parts.frame_change import pixel_change, segment_middles
from ..parts.select import top
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="TransNet: A deep network for fast detection of common shot transitions",
    url="https://arxiv.org/abs/1906.03363",
    needs=("pixels",),
    cost="one pass over small pictures",
)
class SceneChange:
    """Middles of scenes."""

    frames: int = option(16, Range(1, kind=int), "how many scenes, one frame each, at most as many as there are frames")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.pixels (B, T, 3, h, w) -> selection of frames."""
        change = pixel_change(tokens.need("pixels"))
        m = min(self.frames, tokens.n)
        starts = torch.zeros(change.shape, dtype=torch.bool, device=change.device).scatter(1, top(change, m), True)
        return Reduction.take(torch.stack([segment_middles(row) for row in starts]), tokens.n)
