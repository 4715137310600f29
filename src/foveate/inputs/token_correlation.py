"""Token-level correlation: crops that repeat themselves keep few tokens, and these are what the class token looks at.

Zhang et al., "Token-level Correlation-guided Compression for Efficient Multimodal Document Understanding", 2024.
https://arxiv.org/abs/2407.14439

A token that many others of its crop resemble (cosine of encoder keys) is redundant; the share of tokens that are not is
the crop's information density, and sets its budget. In each crop the tokens stay that the class token attends to most,
in a shallow layer (local detail) and in the deepest one (global content).

With ``keep`` the crops share a fixed budget in proportion to how much they hold that is not redundant. Written from the
paper, without code: what counts as alike and as many are options with defaults of our own, and the best tokens are
taken where the paper samples. Without crops the image is one; without encoder keys the features are compared.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..parts.quota import share_out
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Token-level Correlation-guided Compression for Efficient Multimodal Document Understanding",
    url="https://arxiv.org/abs/2407.14439",
    systems=("S002",),
    needs=("cls_layers|received_layers", "keys|features", "crop|features"),
    cost="one n x n similarity, sorts of n",
)
class TokenCorrelation:
    """Density from patch-patch correlation, selection by class-patch correlation."""

    keep: float | int | None = option(
        None, Keep(), "share (float) or number (int) of visual tokens to keep; default: as many as are not redundant"
    )
    alike: float = option(0.8, Range(-1, 1), "cosine from which two tokens are alike")
    many: float = option(0.05, Range(0, 1), "a token is redundant if it is alike to more than this share of its crop")
    local: float = option(0.25, Range(0, 1), "depth of the shallow layer as a share of the encoder")

    def score(self, tokens: Tokens) -> Tensor:
        """tokens.cls_layers or received_layers (B, L, n) -> (B, n), shallow and deep attention as shares of the row."""
        seen = tokens.need("cls_layers", "received_layers").float()
        both = torch.stack([seen[:, round(self.local * (seen.shape[1] - 1))], seen[:, -1]])
        return (both / both.sum(-1, keepdim=True).clamp(min=1e-12)).sum(0)

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`score`, keys (B, n, d) or x (B, n, D), crop (B, n) or None -> selection."""
        x = tokens.x if tokens.keys is None else tokens.keys
        crop = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device) if tokens.crop is None else tokens.crop + 1
        kind = one_hot(crop)  # (B, n, G): line ends, where there are any, are a group of their own
        size = kind.sum(1)
        others = alike(x, crop, self.alike)
        fresh = others <= self.many * (size.gather(1, crop) - 1)
        news = (kind * fresh[..., None]).sum(1).float()  # (B, G): tokens that are not redundant
        m = news.sum(-1).long().clamp(min=1) if self.keep is None else budget(self.keep, tokens.n)
        return Reduction.from_mask(share_out(self.score(tokens), crop, news + 1e-3, m))


def alike(x: Tensor, crop: Tensor, least: float, block: int = 1024) -> Tensor:
    """How many other tokens of the same crop are at least that similar. x (B, n, D), crop (B, n) -> (B, n)."""
    unit = normalize(x.float(), dim=-1)
    total = torch.zeros_like(crop, dtype=torch.float32)
    for at in range(0, x.shape[1], block):  # each pair once
        near = unit[:, at : at + block] @ unit[:, at:].mT >= least
        near &= crop[:, at : at + block, None] == crop[:, None, at:]
        near[:, :, :block].diagonal(dim1=1, dim2=2).fill_(False)
        count = near.float()  # sums of bools are slow
        total[:, at : at + block] += count.sum(-1)
        total[:, at + block :] += count[:, :, block:].sum(1)
    return total
