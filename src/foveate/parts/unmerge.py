"""Attention as if merged tokens still stood in all their places.

A unique token a that stands for the positions S_a of a sequence of N is a query at each of them, and a key and value at
each of them; what it receives is the mean over its positions. With rotary positions the logit of a pair depends on the
distance of the two places, so every pair of places has one of its own, and N x N products cannot be avoided exactly.
What can: projections, MLP and cache hold m tokens and not N (keys are kept unrotated, and turned to each of their
places when they are read); a query position is only compared with earlier ones; no N x N matrix is ever held; and rows
that nobody needs are not computed (``at``).

:func:`counted_attention` is m x m: a token stands once, at its mean place, and its multiplicity is added to the logit
as log |S_a|, since |S| equal terms of a softmax are one term |S| times as large. That is exact where the places of a
token share their position code or there is none, and else as good as tokens merged nearby are. The two go together:
exact rows for the few text tokens, counted ones for the image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, halves paired. x (..., n, d), cos and sin (n, d)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def virtual_logits(q: Tensor, k: Tensor, where: Tensor, cos: Tensor, sin: Tensor, scaling: float) -> Tensor:
    """Logits of all pairs of places, before any mask; for tests. Arguments as :func:`virtual_attention`."""
    group = q.shape[1] // k.shape[1]
    full = turn(k[:, :, where], cos, sin).repeat_interleave(group, 1)
    return turn(q[:, :, where], cos, sin) @ full.mT * scaling


def virtual_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    where: Tensor,
    cos: Tensor,
    sin: Tensor,
    scaling: float,
    at: Tensor | None = None,
    chunk: int = 512,
) -> Tensor:
    """Exact causal attention of the whole sequence, averaged over the places of each unique token.

    Args:
        q: (B, H, m, d) unrotated queries of the unique tokens; k, v: (B, g, m, d), H a multiple of g.
        where: (N,) int64, the unique token at each place of the whole sequence.
        cos, sin: (N, d) of the rotary embedding at those places.
        scaling: what logits are multiplied by.
        at: (P,) ascending places whose queries are to be run; default all.
        chunk: how many query places run at a time.

    Returns:
        (B, H, m, d), zero for tokens that have no place among ``at``.
    """
    full = len(where)
    at = torch.arange(full, device=where.device) if at is None else at
    keys, values = turn(k[:, :, where], cos, sin), v[:, :, where]
    out = torch.zeros_like(q)
    for part in at.split(chunk):
        upto = int(part[-1]) + 1
        seen = torch.arange(upto, device=part.device) <= part[:, None]
        rows = turn(q[:, :, where[part]], cos[part], sin[part])
        got = scaled_dot_product_attention(
            rows, keys[:, :, :upto], values[:, :, :upto], seen, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        out.index_add_(2, where[part], got)
    return out / torch.bincount(where[at], minlength=q.shape[2]).clamp(min=1).to(q.dtype)[:, None]


def counted_attention(q: Tensor, k: Tensor, v: Tensor, count: Tensor, scaling: float, seen: Tensor) -> Tensor:
    """Attention of unique tokens that each stand once and count several times.

    q (B, H, m, d), k and v (B, g, m, d), rotated to the places where they stand; count (B, m) how many places each has;
    seen broadcastable to (B, H, m, m), True where a key is visible -> (B, H, m, d).
    """
    bias = count.log()[:, None, None].to(q.dtype).masked_fill(~seen, -torch.inf)
    return scaled_dot_product_attention(q, k, v, bias, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])
