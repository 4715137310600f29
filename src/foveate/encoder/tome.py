"""ToMe: merge the most similar patch tokens a little in every block of the vision encoder.

Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023.
https://arxiv.org/abs/2210.09461

Between attention and MLP, even tokens are matched to their most similar odd token by the block's own keys, and the r
best pairs are averaged, weighted by how many patches each already stands for. Later attention adds the logarithm of
that number to its logits ("proportional attention").

Departure from the authors' code: surviving tokens stay in spatial order. Attention does not see the difference, but the
next block counts even and odd along that order; ``variant="code"`` lists them as the code does, sources before
destinations.
"""

from __future__ import annotations

import torch

from ..errors import SignalError
from ..method import OneOf, Range, method, option
from ..parts.merge import Match, bipartite, shift, split, strided
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Token Merging: Your ViT But Faster",
    url="https://arxiv.org/abs/2210.09461",
    needs=("metric", "size"),
    cost="one n/2 x n/2 similarity a block",
    vectors=("tome",),
)
class ToMe:
    """Bipartite soft matching."""

    r: int = option(8, Range(0, kind=int), "tokens merged away in each block, at most half of those left")
    inflect: float = option(0.0, Range(-1, 1), "slope of r over depth: 1 merges most in early blocks, -1 in late ones")
    proportional: bool = option(True, OneOf((True, False)), "add log(size) to later attention logits")
    stride: int | None = option(None, Range(2, kind=int), "instead merge everything into each stride-th token, once")

    seed: int | None = option(None, Range(0, 2**31, int), "instead draw the r tokens that are merged away at random")
    variant: str = option("spatial", OneOf(("spatial", "code")), "how survivors are listed; see above")

    def at(self, layers: int) -> tuple[int, ...]:
        """Every block, or the first one alone with ``stride``."""
        return tuple(range(layers)) if self.stride is None else (0,)

    def rate(self, layer: int, layers: int) -> int:
        """Tokens to merge away in this block: linear over depth, r on average."""
        low = int(self.r * (1 - self.inflect))
        step = (2 * self.r - 2 * low) / (layers - 1) if layers > 1 else 0.0
        return int(low + step * layer)

    def drops(self, n: int, prefix: int, layer: int, layers: int) -> int:
        """How many of n tokens, ``prefix`` ones included, this block merges away."""
        if self.stride is not None:
            return n - prefix - (n - prefix) // self.stride
        return min(self.rate(layer, layers), (n - prefix) // 2)

    def match(self, tokens: Tokens) -> Match:
        """Who merges into whom: tokens.metric (B, n, d)."""
        if tokens.metric is None:
            raise SignalError("tome needs metric, the block's keys averaged over heads (B, n, d); it is None")
        if self.stride is not None:
            return shift(strided(tokens.metric[:, tokens.prefix :], self.stride), tokens.prefix)
        r = self.drops(tokens.n, tokens.prefix, tokens.layer, tokens.layers)
        if self.seed is None:
            return bipartite(tokens.metric, r, tokens.prefix)
        draw = torch.randperm(tokens.n - tokens.prefix, generator=torch.Generator().manual_seed(self.seed))
        order = draw.to(tokens.x.device).expand(tokens.x.shape[0], -1)
        return shift(split(tokens.metric[:, tokens.prefix :], order[:, :r], order[:, r:]), tokens.prefix)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.metric (B, n, d), tokens.size (B, n) -> merge to n - r."""
        match = self.match(tokens)
        reduction = Reduction.merge(match.into, tokens.size)
        return reduction.listed(match.order) if self.variant == "code" else reduction
