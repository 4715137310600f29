"""D-CoDe (frames): some frames at even distances, and then those least like the frames chosen so far.

Huang et al., "D-CoDe: Scaling Image-Pretrained VLMs to Video via Dynamic Compression and Question Decomposition",
EMNLP 2025.
https://arxiv.org/abs/2510.08818

Even sampling covers the whole video; what it misses is added frame by frame, each time the one whose mean cosine with
all chosen frames is smallest. What becomes of the tokens of those frames is a method of its own, ``dcode``; the split
of the question by a language model is not part of either.

Departure: no frame is chosen twice. In the authors' code that happens where more frames are asked for than there are,
or where all others are copies of the chosen ones (``repeats=True``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Range, method, option
from ..parts.spaced import line
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="D-CoDe: Scaling Image-Pretrained VLMs to Video via Dynamic Compression and Question Decomposition",
    url="https://arxiv.org/abs/2510.08818",
    systems=("S037",),
    needs=("image_embeds|features",),
    cost="one frames x frames similarity",
    vectors=("dcode",),
)
class DCoDeFrames:
    """Even frames, and unlike ones."""

    frames: int = option(16, Range(1, kind=int), "how many frames to choose, at most those there are")
    uniform: float = option(0.85, Range(0, 1), "share of them at even distances")

    def pick(self, x: Tensor, count: int, repeats: bool = False) -> Tensor:
        """x (T, C) embeddings of the frames -> (count,) ascending frames."""
        unit = x.float() / (x.float().norm(dim=-1, keepdim=True) + 1e-8)
        near = unit @ unit.T
        spread = line(0, len(x) - 1, int(count * self.uniform), x.device).long()
        chosen = spread if repeats else spread.unique()
        if not len(chosen):
            chosen = torch.zeros(1, dtype=torch.long, device=x.device)
        total = near[:, chosen].sum(-1)
        while len(chosen) < count:
            best = (total / len(chosen)).index_fill(0, chosen, 1.0 if repeats else torch.inf).argmin()[None]
            chosen, total = torch.cat([chosen, best]), total + near[:, best[0]]
        return chosen.sort().values

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.image_embeds (B, T, C), or x -> selection of frames."""
        x = tokens.need("image_embeds", "x")
        return Reduction.take(torch.stack([self.pick(row, min(self.frames, tokens.n)) for row in x]), tokens.n)
