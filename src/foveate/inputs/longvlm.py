"""LongVLM: merge the tokens of each short segment of the video, half of them at a time.

Weng et al., "LongVLM: Efficient Long Video Understanding via Large Language Models", ECCV 2024.
https://arxiv.org/abs/2404.03384

A long video is a sequence of events, so it is cut into segments of equal length, and all tokens of a segment, whichever
frame they are from, are merged by similarity in steps until few are left. The segments follow each other in time.

With the share of 30 in 2,560 the steps are the authors' own. Departures: their schedule is fixed, here the budget is
met exactly; merged tokens stay where one of them was, where the code lists them by similarity; the class tokens of the
frames, which the paper puts in front, are not among what is reduced. The last segment may be shorter.
"""

from __future__ import annotations

from ..method import Keep, Range, method, option
from ..parts.areas import members, seats
from ..parts.budget import budget
from ..parts.film import Film
from ..parts.stepwise import merged_down
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="LongVLM: Efficient Long Video Understanding via Large Language Models",
    url="https://arxiv.org/abs/2404.03384",
    systems=("S034",),
    needs=("grid", "features"),
    training="the model, to read merged tokens (it also runs without)",
    cost="one n/2 x n/2 similarity of each segment, and smaller ones",
    vectors=("longvlm",),
)
class LongVLM:
    """Hierarchical merging of each segment."""

    keep: float | int = option(30 / 2560, Keep(), "share (float) or number (int) of visual tokens left")
    frames: int = option(10, Range(1, kind=int), "frames of a segment")
    heads: int = option(16, Range(1, kind=int), "similarity is that of the mean of so many parts of a token")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), tokens.grid (B, n, 3) -> map to the merged tokens of each segment."""
        film = Film(tokens)
        segment = film.frame // self.frames
        size = members(segment, -(-film.frames // self.frames))
        count = seats(segment, size, budget(self.keep, tokens.n))
        heads = self.heads if tokens.x.shape[-1] % self.heads == 0 else 1
        return Reduction.merge(*merged_down(tokens.x, segment, count, heads=heads, carry=True))
