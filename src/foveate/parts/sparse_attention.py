"""Attention of some queries over some entries."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def grouped(q: Tensor, k: Tensor, v: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
    """Attention in which no KV head is copied for the query heads that share it.

    q (B, H, r, d), k (B, g, n, d) and v (B, g, n, d'), H a multiple of g; mask (B or 1, H or 1, r, n), bool (True =
    visible) or additive, None: all is visible -> (B, r, H, d'). A query that sees nothing gets zeros.
    """
    b, h, r, d = q.shape
    g, n = k.shape[1], k.shape[2]
    if mask is not None:
        alike = mask.shape[1] == 1  # the same for all heads: it need not be repeated for each of them
        mask = mask.repeat(1, 1, h // g, 1) if alike else mask.expand(b, h, r, n).reshape(b, g, h // g * r, n)
        if mask.dtype != torch.bool:
            mask = mask.to(q.dtype)
    out = scaled_dot_product_attention(q.reshape(b, g, h // g * r, d), k, v, attn_mask=mask, scale=scaling)
    return out.nan_to_num(0.0).view(b, h, r, -1).transpose(1, 2).contiguous()
