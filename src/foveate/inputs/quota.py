"""QuoTA: share the tokens among the frames by how much each has to do with the question.

Luo et al., "QuoTA: Query-oriented Token Assignment via CoT Query Decouple for Long Video Comprehension", AAAI 2026.
https://arxiv.org/abs/2503.08689

Every frame gets a score before the model reads any of it, the budget is divided in proportion to a power of the
scores, and each frame is scaled down to what it gets: by pooling, by even sampling or by merging similar tokens.

Departures: the authors' score is the chance that a second model, asked whether the frame helps with a question that a
chain of thought made of the user's, says yes; here it is the similarity of frame and question, as a chance. No frame
gets more than it has, and what rounding leaves is given out too, so that the budget is met; the authors lose what a
rectangle of whole rows cannot hold. Pooled areas need not form a rectangle. Their first version, which interpolates
between four tokens of the frame, is a function here (:func:`foveate.parts.resample.resized`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.areas import areas, claims, members, seats, views
from ..parts.budget import budget
from ..parts.film import Film
from ..parts.frame_relevance import chances, frame_relevance
from ..parts.pooling import averaged
from ..parts.ranks import ranks
from ..parts.stepwise import merged_down
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="QuoTA: Query-oriented Token Assignment via CoT Query Decouple for Long Video Comprehension",
    url="https://arxiv.org/abs/2503.08689",
    systems=("S043",),
    needs=("grid", "image_embeds|features", "text_embeds|text"),
    cost="one product of tokens and text; merging: products of halves of each frame",
    vectors=("quota",),
)
class QuoTA:
    """Budgets of frames by relevance."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of visual tokens left")
    how: str = option("pool", OneOf(("pool", "sample", "merge")), "how a frame is scaled down to its budget")
    power: float = option(2.0, Range(0), "of the scores that the budget is divided by; 0 gives all frames the same")

    def weights(self, tokens: Tokens, film: Film) -> Tensor:
        """The claim of each frame, (B, F); 0 where it is empty."""
        there = film.sizes > 0
        return chances(frame_relevance(tokens, film), there) ** self.power * there

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.image_embeds (B, n, C) and text_embeds (B, M, C), or x and text -> map to the tokens of each frame."""
        film, grid = Film(tokens), tokens.need("grid")
        view = views(tokens, film)
        count = seats(view, claims(view, self.weights(tokens, film)), budget(self.keep, tokens.n))
        if self.how == "pool":
            return averaged(areas(grid, view, count), tokens.size)
        if self.how == "sample":
            return Reduction.from_mask(evenly(view, count))
        into, share = merged_down(tokens.x, view, count)
        return Reduction.merge(into, share)


def evenly(group: Tensor, count: Tensor) -> Tensor:
    """Evenly spaced members of each group, first and last among them: group (B, n), count (B, G) -> (B, n) bool.

    The i-th of c among s is number i (s - 1) / (c - 1), rounded down.
    """
    many, size = count.gather(1, group), members(group, count.shape[1]).gather(1, group)
    rank = ranks(torch.zeros(group.shape, device=group.device), group)
    last, steps = (size - 1).clamp(min=1), (many - 1).clamp(min=1)
    turn = (rank * steps + last - 1) // last  # the first i whose number is not below the rank
    hit = (turn * last // steps == rank) & (turn <= steps)
    return torch.where(many > 1, hit, rank == 0) & (many > 0)


def assigned(score: Tensor, total: int, most: int | None = None) -> list[int]:
    """Tokens of each frame in proportion to its score (F,), rounded down. ``most``: what a frame may get.

    What is above is shared, once and from the first frame on, among those below in proportion to their shares of all.
    """
    share = (score.double() / score.double().sum()).tolist()
    if most is not None:
        limit = most / total
        excess = sum(s - limit for s in share if s > limit)
        share = [min(s, limit) for s in share]
        whole = sum(share)
        for i, s in enumerate(share if excess > 0 else []):
            if s < limit:
                share[i] = s + s / whole * excess
                excess += max(0.0, share[i] - limit)
                share[i] = min(share[i], limit)
    return [int(total * s) for s in share]


def rectangle(count: int) -> tuple[int, int]:
    """Rows and columns of the largest square of at most ``count`` cells, one row more where that fits."""
    side = math.isqrt(count)
    return (side + 1, side) if (side + 1) * side <= count else (side, side)
