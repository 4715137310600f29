"""TimeChat-Online: drop the video tokens that repeat the same place of the frame before.

Yao et al., "TimeChat-Online: 80% Visual Tokens are Naturally Redundant in Streaming Videos", 2025.
https://arxiv.org/abs/2504.17343

The first frame stays. Of each later one, tokens are dropped whose cosine with the previous frame's token in the same
place is above a threshold, or whose colours differ from it by less than one. Positions are not counted anew.

A threshold decides how many; ``keep`` sets the number instead, the same share of every frame but the first (the
authors' share drops as many of each). Departures: colours of all that a token shows are compared, where the code takes
the first picture of the previous token and the last one of this (:meth:`TimeChatOnline.sameness` takes both); where no
colours are known, features are compared. The trained model and its triggers are not part of this.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.film import Film, likeness
from ..parts.quota import share_out
from ..parts.twins import difference, scattered
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="TimeChat-Online: 80% Visual Tokens are Naturally Redundant in Streaming Videos",
    url="https://arxiv.org/abs/2504.17343",
    needs=("grid", "pixels|features"),
    cost="one product of each token with another",
    vectors=("timechat_online",),
)
class TimeChatOnline:
    """Selection by change from frame to frame (differential token drop)."""

    keep: float | int | None = option(
        None, Keep(), "share (float) or number (int) of the clip's tokens to keep; default: a threshold decides"
    )
    metric: str = option("feature", OneOf(("feature", "pixel")), "what is compared: features or colours")
    alike: float = option(0.5, Range(-1, 1), "cosine above which a token is dropped")
    still: float = option(0.1, Range(0, 1), "mean difference of colours, black to white 1, below which it is dropped")

    def sameness(self, tokens: Tokens, film: Film, earlier: Tensor | None = None) -> Tensor:
        """How much each token is like its predecessor, (B, n): the cosine, or minus the difference of colours.

        earlier (B, n, 3, h, w): the colours of each token that the next frame is compared with; default: its pixels.
        """
        twin = film.before()
        if not self._colours(tokens):
            return likeness(tokens.x, twin)
        now = tokens.need("pixels").float() / 255
        return -difference(now, now if earlier is None else earlier.float() / 255, twin)

    def _colours(self, tokens: Tokens) -> bool:
        return self.metric == "pixel" and tokens.pixels is not None

    def dropped(self, tokens: Tokens, film: Film, same: Tensor) -> Tensor:
        """same (B, n) as of :meth:`sameness` -> (B, n) bool."""
        if self.keep is None:
            return same > (-self.still if self._colours(tokens) else self.alike)
        first = film.frame == 0
        claim = film.sizes.float().clamp(min=1)
        claim[:, :1] *= 1e6  # whole, before any other frame has a token
        score = torch.where(first, scattered(film.place), -same)
        return ~share_out(score, film.frame, claim, budget(self.keep, tokens.n))

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D) or pixels (B, n, 3, h, w), grid (B, n, 3) -> selection."""
        film = Film(tokens)
        return Reduction.from_mask(~self.dropped(tokens, film, self.sameness(tokens, film)))
