"""MustDrop, vision stage: merge small windows of patches that look alike, once, early in the encoder.

Liu et al., "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model", 2024.
https://arxiv.org/abs/2411.10803

The patch grid is cut into windows of 3 x 3. Where the mean cosine between the members of a window reaches a threshold,
the window becomes one token, the mean of its members. The part inside the LLM is the method ``mustdrop``, which also
holds the key tokens that are never dropped; the plan "mustdrop_merge + mustdrop" is the whole.

The authors act after the first block, this between its attention and its MLP. Their code merges equally many windows in
every image of a batch, the fewest that any of them has (``variant="code"``); here each image has its own number, and a
grid that windows do not fill ends in smaller ones. A merged token inherits the place of its first member. Later
attention adds the logarithm of a token's size to its logits, which the paper does not say; in a batch of images of
unequal length it also hides the empty places.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..method import OneOf, Range, method, option
from ..parts.merge import uneven
from ..parts.windows import cells, tightness, tiles
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model",
    url="https://arxiv.org/abs/2411.10803",
    systems=("S009",),
    needs=("features", "size"),
    cost="one pass over the tokens, once",
)
class MustDropMerge:
    """Merging of uniform windows."""

    threshold: float = option(0.8, Range(-1, 1), "mean cosine from which a window is merged")
    window: int = option(3, Range(1, kind=int), "side of a window in patches")
    layer: int = option(0, Range(0, kind=int), "in this block (0-based), before its MLP")
    proportional: bool = option(True, OneOf((True, False)), "add log(size) to later attention logits")
    variant: str = option("each", OneOf(("each", "code")), "whose windows count; see above")

    def at(self, layers: int) -> tuple[int, ...]:
        """One block."""
        return (min(self.layer, layers - 1),)

    def tile(self, tokens: Tokens) -> Tensor:
        """The window of each token after the prefix: (n - prefix,), on the grid nearest to a square."""
        return tiles(cells(tokens.n - tokens.prefix, tokens.x.device), self.window)

    def similarity(self, tokens: Tokens) -> Tensor:
        """tokens.x (B, n, D) -> (B, windows), row by row: mean cosine between a window's members."""
        tile = self.tile(tokens)
        unit = normalize(tokens.x[:, tokens.prefix :].float(), dim=-1)
        return tightness(unit, tile, int(tile.max()) + 1 if len(tile) else 0)

    def chosen(self, similarity: Tensor) -> Tensor:
        """(B, windows) -> bool, the windows to merge."""
        over = similarity >= self.threshold
        if self.variant != "code":
            return over
        rank = similarity.argsort(stable=True, dim=-1, descending=True).argsort(-1)
        return rank < over.sum(-1).min()

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), tokens.size (B, n) -> map that averages the chosen windows."""
        at = torch.arange(tokens.n, device=tokens.x.device)
        patch, tile = at[tokens.prefix :], self.tile(tokens)
        chosen = self.chosen(self.similarity(tokens))
        first = torch.full_like(chosen[0], tokens.n, dtype=torch.long).scatter_reduce(0, tile, patch, "amin")
        into = torch.where(chosen[:, tile], first[tile], patch)
        return uneven(torch.cat([at[: tokens.prefix].expand(len(into), -1), into], 1), tokens.size)
