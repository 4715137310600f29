"""GTP-ViT: tokens that leave pass what they hold on to their neighbours in the picture and in feature space.

Xu et al., "GTP-ViT: Efficient Vision Transformers via Graph-based Token Propagation", WACV 2024.
https://arxiv.org/abs/2311.03035

A graph joins each token to the eight cells around it and to the tokens most like it. In every block, the r tokens that
are easiest to regenerate (they pay themselves little attention and get little) leave, and each token that stays
receives a part, alpha, of what its neighbours held.

A token here becomes the weighted mean of itself and what it receives, so that lengths do not grow, and stands for as
many patches as that mean holds. ``variant="code"`` adds without normalising (the scales then need the same sum, and the
map cannot act inside a model). The code builds the graph once, from the embedded patches; a method sees only the tokens
of the block, so cells come from ``grid`` (or the shape nearest to a square, when the site has none) and likeness from
the tokens as they are now.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import SignalError
from ..method import OneOf, Range, method, option
from ..parts.flow import Flow, flow, head_flow, row_crowd, slices
from ..parts.graph import adjacent, between, similar, symmetric
from ..parts.windows import cells
from ..reduction import Reduction
from ..tokens import Tokens

SCORES = tuple(f"{kind}_{how}" for kind in ("mixed", "class", "received", "own", "cosine") for how in ("max", "mean"))


@method(
    title="GTP-ViT: Efficient Vision Transformers via Graph-based Token Propagation",
    url="https://arxiv.org/abs/2311.03035",
    systems=("S020",),
    needs=("last_heads", "grid|features", "size"),
    cost="attention of the block and one n x n similarity, at every block",
    vectors=("gtp_vit",),
)
class GTPViT:
    """Token propagation on a graph."""

    r: int = option(8, Range(0, kind=int), "tokens that leave in each block, all but one at most")
    alpha: float = option(0.1, Range(0), "how much of its neighbours a token receives")
    graph: str = option("mixed", OneOf(("mixed", "spatial", "semantic")), "which tokens are neighbours")
    neighbours: int = option(8, Range(1, kind=int), "how many similar tokens are neighbours")
    score: str = option("mixed_max", OneOf((*SCORES, "sum_max")), "what tells which tokens stay, over heads")
    proportional: bool = option(True, OneOf((True, False)), "add log(size) to later attention logits")
    variant: str = option("mean", OneOf(("mean", "code")), "whether what is received is averaged or added; see above")

    @property
    def averages(self) -> bool:
        """Whether the shares of a token sum to 1."""
        return self.variant != "code"

    def at(self, layers: int) -> tuple[int, ...]:
        """Every block."""
        return tuple(range(layers))

    def drops(self, n: int, prefix: int, layer: int, layers: int) -> int:
        """How many of n tokens, ``prefix`` ones included, leave in this block."""
        return max(0, min(self.r, n - prefix - 1))

    def weights(self, tokens: Tokens) -> Tensor:
        """tokens.x (B, n, D) -> the normalised graph over the tokens after the prefix, (B, n - p, n - p)."""
        return symmetric(self.edges(tokens))

    def edges(self, tokens: Tokens) -> Tensor:
        """As :meth:`weights`, but bool: which tokens are neighbours."""
        b, p = tokens.x.shape[0], tokens.prefix
        if tokens.grid is None:
            grid = pad(cells(tokens.n - p, tokens.x.device), (1, 0)).expand(b, -1, -1)
        else:
            grid = tokens.grid[:, p:]
        x = tokens.x[:, p:]
        if self.graph == "spatial" or not x.shape[1]:
            return adjacent(grid)
        near = similar(x, self.neighbours)
        return near if self.graph == "semantic" else near.logical_or_(adjacent(grid))

    def scores(self, tokens: Tokens) -> Tensor:
        """Queries and keys of this block -> (B, n - p), higher stays."""
        if tokens.q is None or tokens.k is None:
            raise SignalError("gtp_vit needs last_heads, the block's queries and keys; they are None")
        size = tokens.size if self.proportional else None
        if self.score.startswith("cosine"):
            return self.rated(slices(tokens.q, tokens.k, size), tokens.prefix)
        return self._rated(head_flow(tokens.q, tokens.k, size), tokens.prefix)

    def rated(self, maps: Iterable[tuple[int, Tensor]], prefix: int) -> Tensor:
        """Attention maps, as :func:`parts.flow.slices` gives them -> (B, n - p), higher stays."""
        if self.score.startswith("cosine"):
            return -row_crowd(maps, prefix, self.score == "cosine_max")
        return self._rated(flow(maps), prefix)

    def _rated(self, seen: Flow, prefix: int) -> Tensor:
        kind, how = self.score.split("_")
        own, received, first = ((t.amax(1) if how == "max" else t.mean(1))[:, prefix:] for t in seen)
        if kind == "class":
            return first if prefix else received
        return {"own": own, "received": received, "mixed": own * received, "sum": own + received}[kind]

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`scores`, tokens.x (B, n, D) -> mixing map to n - r."""
        return self.propagated(tokens, self.scores(tokens))

    def propagated(self, tokens: Tokens, scores: Tensor) -> Reduction:
        """tokens.x (B, n, D), scores (B, n - p) -> the map in which the r lowest pass on what they hold."""
        b, p, r = tokens.x.shape[0], tokens.prefix, self.drops(tokens.n, tokens.prefix, 0, 1)
        if not r:
            return Reduction.identity(b, tokens.n, tokens.x.device)
        rank = scores.argsort(stable=True, dim=-1, descending=True)
        stay, gone = rank[:, : rank.shape[1] - r].sort(-1).values, rank[:, rank.shape[1] - r :]
        passed = self.alpha * between(self.edges(tokens), stay, gone)  # (B, stay, gone)
        head = torch.arange(p, device=rank.device).expand(b, -1)
        keep = torch.cat([head, stay + p], 1)
        passed = torch.cat([passed.new_zeros(b, p, r), passed], 1)
        own = passed.new_ones(b, keep.shape[1], 1)
        if self.variant != "code":
            if tokens.size is not None:
                size = tokens.size.float()
                own, passed = size.gather(1, keep)[..., None], passed * size.gather(1, gone + p)[:, None]
            total = own + passed.sum(-1, keepdim=True)
            own, passed = own / total, passed / total
        matrix = passed.new_zeros(b, keep.shape[1], tokens.n)  # almost empty: filled last, and once
        matrix.scatter_(2, keep[..., None], own)
        matrix.scatter_(2, (gone + p)[:, None].expand_as(passed), passed)
        return Reduction.dense(matrix, keep)
