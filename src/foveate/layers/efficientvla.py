"""EfficientVLA: keep a few task-critical visual tokens, then more of the attended and of the different ones.

Yang et al., "EfficientVLA: Training-Free Acceleration and Compression for Vision-Language-Action Models", NeurIPS 2025.
https://arxiv.org/abs/2506.10100

The attention that the text paid to each visual token in the layer before, averaged over heads and text, ranks the
tokens. The first few are key tokens. Of what is left of the budget the share ``alpha`` goes to the next in rank, the
rest to the tokens least similar (cosine) to any key token.

This is the paper's visual token selection alone. With ``sinks`` the attention is calibrated first, so that tokens which
every word looks at lose most of their weight (Yu et al., https://arxiv.org/abs/2406.15765).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..parts.score import text_rows
from ..parts.sinks import calibrate, sink_columns
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="EfficientVLA: Training-Free Acceleration and Compression for Vision-Language-Action Models",
    url="https://arxiv.org/abs/2506.10100",
    systems=("S005",),
    needs=("last_heads",),
    cost="the text's attention rows of one layer, key x n similarities, sorts of n",
)
class EfficientVLA:
    """Key tokens, attended tokens, different tokens."""

    layer: int = option(2, Range(1, kind=int), "drop before this layer (0-based); its predecessor's attention decides")
    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of visual tokens to keep")
    key: int = option(8, Range(1, kind=int), "how many key tokens there are")
    alpha: float = option(0.5, Range(0, 1), "share of the other kept tokens that attention picks")
    sinks: float | None = option(None, Range(0, 1), "what attention sinks keep of their attention; default: all of it")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before one layer."""
        return (self.layer,)

    def score(self, tokens: Tokens) -> Tensor:
        """tokens.q (B, H, L, d), k (B, g, L, d), where (B, n), asks (B, t) -> (B, n)."""
        q, k, where, asks = tokens.need("q"), tokens.need("k"), tokens.need("where"), tokens.need("asks")
        if self.sinks is None:
            return text_rows(q, k, asks, where).mean((1, 2))
        rows = text_rows(q, k, asks)
        return calibrate(rows, sink_columns(rows, asks), self.sinks).mean((1, 2)).gather(1, where)

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`score`, and tokens.x (B, n, D) -> selection of m."""
        m = budget(self.keep, tokens.n, tokens.full)
        rank = self.score(tokens).argsort(stable=True, dim=-1, descending=True)
        key = min(self.key, m)
        sure = key + round(self.alpha * (m - key))
        unit = normalize(tokens.x.float(), dim=-1)
        keys = unit.gather(1, rank[:, :key, None].expand(-1, -1, unit.shape[-1]))
        near = (unit @ keys.mT).amax(-1).scatter(1, rank[:, :sure], torch.inf)
        different = near.argsort(stable=True, dim=-1)[:, : m - sure]
        return Reduction.take(torch.cat([rank[:, :sure], different], 1), tokens.n)
