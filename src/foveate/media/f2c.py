"""F2C: whole clips instead of single frames, at a resolution that makes up for it.

Sun et al., "From Frames to Clips: Efficient Key Clip Selection for Long-Form Video Understanding", 2025.
https://arxiv.org/abs/2510.02262

The frames that fit the question best, apart from each other, become the centres of clips: motion is seen only where
neighbouring frames are shown. A clip costs more frames, so they are shown smaller: with sides scaled by ``scale`` each
costs ``scale`` squared, and as many more are chosen, so that the number of visual tokens is that of ``frames`` whole
ones.

Departures: the paper lets the length of every clip and the resolution vary together; here one scale holds for all
clips, and the clips grow around their centres by relevance until the budget is used. Relevance is compared in the
model's own embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Range, method, option
from ..parts.signals import likeness
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="From Frames to Clips: Efficient Key Clip Selection for Long-Form Video Understanding",
    url="https://arxiv.org/abs/2510.02262",
    systems=("S044",),
    needs=("image_embeds|features", "text_embeds|text"),
    cost="one product of frames and text",
)
class F2C:
    """Key clips at a lower resolution."""

    frames: int = option(8, Range(1, kind=int), "how many whole frames the clips may cost together")
    clips: int = option(4, Range(1, kind=int), "how many clips, at most one for each frame chosen")
    scale: float = option(0.5, Range(0.1, 1), "the sides of the frames shown, as a share of the original")

    def pick(self, score: Tensor, m: int) -> Tensor:
        """score (T,) -> (m,) ascending frames, in clips around peaks of the score."""
        n, clips = len(score), min(self.clips, m)
        half = max(1, m // clips) // 2
        taken = torch.zeros(n, dtype=torch.bool, device=score.device)
        free = score.clone()
        ends = []
        for _ in range(clips):
            best = int(free.argmax())
            if float(free[best]) == -torch.inf:  # the clips before leave no room for one more
                break
            apart = max(1, 2 * half)
            free[max(0, best - apart) : best + apart + 1] = -torch.inf
            taken[best] = True
            ends.append((best, best))
        left = m - int(taken.sum())
        while left:  # the clip whose next neighbour fits best grows by it; of equals the shortest
            edges = [(e, c, s) for c, (a, b) in enumerate(ends) for e, s in ((a - 1, -1), (b + 1, 1)) if 0 <= e < n]
            open_edges = [(e, c, s) for e, c, s in edges if not taken[e]]
            e, c, side = max(open_edges, key=lambda t: (float(score[t[0]]) - self._long(ends[t[1]], half), -t[0]))
            taken[e] = True
            a, b = ends[c]
            ends[c] = (e, b) if side < 0 else (a, e)
            ends = [self._joined(taken, a, b) for a, b in ends]
            left -= 1
        return taken.nonzero()[:, 0]

    @staticmethod
    def _long(end: tuple[int, int], half: int) -> float:
        """Clips longer than their share wait for the others; likenesses lie between -1 and 1."""
        return 4.0 * ((end[1] - end[0]) // max(1, 2 * half))

    @staticmethod
    def _joined(taken: Tensor, a: int, b: int) -> tuple[int, int]:
        """A clip that met another ends where that ends."""
        while a > 0 and taken[a - 1]:
            a -= 1
        while b + 1 < len(taken) and taken[b + 1]:
            b += 1
        return a, b

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.image_embeds (B, T, C) and text_embeds (B, M, C), or x and text -> selection of frames."""
        m = min(max(1, int(self.frames / self.scale**2 + 1e-6)), tokens.n)
        return Reduction.take(torch.stack([self.pick(row, m) for row in likeness(tokens)]), tokens.n)
