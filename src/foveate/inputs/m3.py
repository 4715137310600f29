"""M3: average the grid of visual tokens down to one of a few nested sizes.

Cai et al., "Matryoshka Multimodal Models", ICLR 2025.
https://arxiv.org/abs/2405.17430

One model is trained to read an image at 1, 9, 36, 144 or 576 tokens, each set the 2-D average pooling of the next finer
one, so that the size can be chosen for each question. This is the pooling; it works best on models trained for it.

As in the authors' code every size is pooled from the full grid. Departure: where the grid does not divide, cells at its
edge are smaller; the code leaves those rows and columns out (``variant="code"``). Of line ends one stays for each row.
"""

from __future__ import annotations

from ..method import OneOf, Range, method, option
from ..parts.pooling import Places, averaged
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Matryoshka Multimodal Models",
    url="https://arxiv.org/abs/2405.17430",
    systems=("S054",),
    needs=("grid|features",),
    training="the model, to read pooled tokens (it also runs without)",
    cost="one pass over the tokens",
    vectors=("m3",),
)
class M3:
    """Nested average pooling."""

    scale: int = option(144, Range(1, kind=int), "tokens left of each view, where its grid divides")
    variant: str = option("paper", OneOf(("paper", "code")), "what becomes of the rows left over; see above")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.grid (B, n, 3), or else a square -> map to the means of square cells."""
        places = Places(tokens)
        sizes = places.sizes()
        sizes = sizes[:, : places.views // 2].repeat(1, 2).gather(1, places.view)  # line ends go with their view
        side = (sizes / self.scale).sqrt().long().clamp(min=1)
        return averaged(places.squares(side, whole=self.variant == "code"), tokens.size)
