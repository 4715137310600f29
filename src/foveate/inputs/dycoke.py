"""DyCoke: in every four frames, thin out three of them where they repeat an earlier one.

Tao et al., "DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models", CVPR 2025.
https://arxiv.org/abs/2411.15024

Frames are taken in fours. The second is compared with the first, the fourth with the third and the third with the
first, place by place; in each of these three only the tokens least like their twin stay. What the paper does while
decoding is :class:`foveate.parts.attended.AttendedSet`.

The paper speaks of merging; the authors' code drops, and so do we. ``keep`` sets the number instead: first frames of
the fours have precedence, and all others keep the same share. ``variant="code"`` has the two slips of the published
loop: the third frame of the last four stays whole, and of an odd number of frames the last is lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.film import Film, likeness
from ..parts.quota import share_out
from ..parts.ranks import ranks
from ..parts.twins import scattered, twins
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models",
    url="https://arxiv.org/abs/2411.15024",
    needs=("grid", "features"),
    cost="one product of each token with another, a sort of n",
    vectors=("dycoke",),
)
class DyCoke:
    """Temporal thinning in windows of four frames."""

    keep: float | int | None = option(
        None, Keep(), "share (float) or number (int) of the clip's tokens to keep; default: as drop says"
    )
    drop: float = option(0.7, Range(0, 1), "share of the tokens of a frame that is thinned that leaves")
    variant: str = option("paper", OneOf(("paper", "code")), "how windows end; see above")

    def sources(self, film: Film) -> Tensor:
        """The frame that each frame is compared with, or -1 for one that stays whole: (B, F)."""
        at = torch.arange(film.frames, device=film.table.device)
        back = (at % 2 + 2 * (at % 4 == 2)).expand(len(film.table), -1)
        if self.variant == "code":
            frames = film.frame.amax(1, keepdim=True) + 1
            back = back.masked_fill((at % 4 == 2) & (at - 2 >= frames - 4), 0)
        return torch.where(back > 0, at - back, -1)

    def sameness(self, tokens: Tokens, film: Film) -> Tensor:
        """Cosine of each token with the one it is compared with; -inf if there is none: (B, n)."""
        return likeness(tokens.x, twins(film, self.sources(film)))

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), grid (B, n, 3) -> selection."""
        film = Film(tokens)
        whole = self.sources(film) < 0
        if self.keep is not None:
            return Reduction.from_mask(self._shared(tokens, film, whole))
        most = (film.sizes.double() * (1 - self.drop)).long()
        most = torch.where(whole, film.sizes, most).gather(1, film.frame)
        stays = ranks(-self.sameness(tokens, film), film.frame) < most
        if self.variant == "code":
            last = film.frame.amax(1, keepdim=True)
            stays &= (film.frame != last) | (last % 2 == 1) | (last == 0)
        return Reduction.from_mask(stays)

    def _shared(self, tokens: Tokens, film: Film, whole: Tensor) -> Tensor:
        """A given number: (B, n) bool. Whole frames are thinned last, where they repeat the window before."""
        at = torch.arange(film.frames, device=whole.device)
        back = torch.where(whole, at - 4, self.sources(film))
        same = likeness(tokens.x, twins(film, back))
        score = torch.where(film.frame == 0, scattered(film.place), -same)
        claim = film.sizes.clamp(min=1) * torch.where(whole, 1e6, 1.0)
        return share_out(score, film.frame, claim, budget(self.keep or 1, tokens.n))
