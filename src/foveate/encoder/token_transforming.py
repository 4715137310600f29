"""Token Transforming: every token shares itself out among the tokens that stay, by how much it is like each of them.

Zeng et al., "Token Transforming: A Unified and Training-Free Token Compression Framework for Vision Transformer
Acceleration", ICCV 2025.
https://arxiv.org/abs/2506.05709

Pruning, merging and pooling are special matrices from n tokens to m. Here the matrix is many-to-many: the tokens that
get most attention are anchors, each token is divided among them by a softmax over similarities (keys), and each anchor
becomes the mean of what it got, weighted by how many patches a token stands for. No token is lost, and none is forced
into one group. A low temperature comes close to merging, a high one to pooling.

Written from the paper's description, since no code is public: how anchors are chosen, the softmax and its temperature
are this library's reading of it.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from ..method import Many, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.select import top
from ..parts.signals import attention
from ..parts.stages import due, equally_long, even, starts
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Token Transforming: A Unified and Training-Free Token Compression Framework for Vision Transformer "
    "Acceleration",
    url="https://arxiv.org/abs/2506.05709",
    systems=("S017",),
    needs=("cls_attention|received_attention", "metric", "size"),
    cost="attention received, an m x n similarity and an m x n product, at each stage",
)
class TokenTransforming:
    """Soft many-to-many reduction."""

    keeps: tuple[float, ...] = option(
        (0.8, 0.6, 0.4), Many(Range(0, 1, open_low=True)), "shares of the original patches left by the stages"
    )
    blocks: tuple[int, ...] | None = option(
        None, Many(Range(0, kind=int)), "in these blocks (0-based); default: evenly spread over the depth"
    )
    temperature: float = option(0.1, Range(0, open_low=True), "of the softmax over cosines")
    proportional: bool = option(True, OneOf((True, False)), "add log(size) to later attention logits")

    def __post_init__(self) -> None:
        equally_long(self, "blocks", "keeps")

    def at(self, layers: int) -> tuple[int, ...]:
        """The blocks given, or evenly spread ones."""
        return tuple(dict.fromkeys(self._starts(layers)))

    def _starts(self, layers: int) -> tuple[int, ...]:
        return starts(self.blocks, even(len(self.keeps)), layers)

    def reduce(self, tokens: Tokens) -> Reduction:
        """Attention (B, H, n) or (B, n), tokens.metric (B, n, d), tokens.size (B, n) -> mixing map to m."""
        b, n, p = tokens.x.shape[0], tokens.n, tokens.prefix
        full = n if tokens.full is None else tokens.full
        m = p + budget(due(self._starts(tokens.layers), self.keeps, tokens.layer), n - p, full - p)
        if m == n:
            return Reduction.identity(b, n, tokens.x.device)
        keep = top(attention(tokens), m, p)
        unit = normalize(tokens.need("metric").float(), dim=-1)
        rows = torch.arange(b, device=keep.device)[:, None]
        matrix = (unit[rows, keep] / self.temperature) @ unit.mT  # (B, m, n); from here on in place
        matrix[:, :p] = -torch.inf  # nothing goes to the prefix
        matrix.sub_(matrix.amax(1, keepdim=True)).exp_()
        given = matrix.sum(1, keepdim=True)  # what a token gives to each anchor; all of it is given
        matrix.mul_(1 / given if tokens.size is None else tokens.size[:, None].float() / given)
        matrix[:, :, :p] = 0
        matrix[:, :p, :p] = torch.eye(p, device=keep.device)
        return Reduction.dense(matrix.div_(matrix.sum(-1, keepdim=True)), keep)
