"""How much a token matters, from attention rows. Only the rows asked for are computed, never a full n x n map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d


def attention_rows(q: Tensor, k: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
    """Softmaxed attention of some queries on all keys, in float32.

    q (B, H, r, d), k (B, g, n, d) with H a multiple of g; mask broadcastable to (B, H, r, n), bool (True = visible) or
    additive -> (B, H, r, n). Query head h reads KV head h // (H / g).
    """
    b, h, r, d = q.shape
    g = k.shape[1]
    logits = (q.reshape(b, g, h // g * r, d).float() @ k.float().mT).view(b, h, r, k.shape[2])
    if scaling != 1:
        logits *= scaling
    if mask is not None:  # in place: fresh memory of this size costs more than the sums
        logits = logits.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else logits.add_(mask)
    return logits.softmax(-1)


def causal_tail(r: int, n: int, device: torch.device) -> Tensor:
    """Mask of the last r of n queries: (r, n) bool, True where the key is not later than the query."""
    at = torch.arange(n - r, n, device=device)[:, None]
    return torch.arange(n, device=device) <= at


def window_votes(q: Tensor, k: Tensor, scaling: float, pool: int, valid: Tensor | None = None) -> Tensor:
    """What the last w queries look at: mean attention, smoothed along tokens, averaged over each KV group.

    q (B, H, w, d) of the last w tokens, k (B, g, n, d), valid (B, n) bool or None -> (B, g, n - w).
    """
    w, n = q.shape[2], k.shape[2]
    if not w:
        return torch.zeros(k.shape[:3], device=k.device)
    mask = causal_tail(w, n, k.device)
    if valid is not None:
        mask = mask & valid[:, None, None]
    votes = attention_rows(q, k, scaling, mask)[..., : n - w]
    if valid is not None:
        votes = votes.nan_to_num(0.0)  # a query that is itself padding sees nothing
    votes = avg_pool1d(votes.mean(-2), pool, stride=1, padding=pool // 2)[..., : n - w]
    return votes.view(votes.shape[0], k.shape[1], -1, votes.shape[-1]).mean(2)


def received(q: Tensor, k: Tensor, scaling: float, mask: Tensor | None = None, chunk: int = 256) -> Tensor:
    """Mean attention that each key receives from all queries and heads, computed in slices of queries.

    q, k (B, H, n, d), mask as in :func:`attention_rows` with (n, n) last, or None -> (B, n) float32.
    """
    total = torch.zeros(k.shape[0], k.shape[2], device=k.device)
    for i in range(0, q.shape[2], chunk):
        rows = None if mask is None else mask[..., i : i + chunk, :]
        total = total + attention_rows(q[:, :, i : i + chunk], k, scaling, rows).sum((1, 2))
    return total / (q.shape[1] * q.shape[2])


def pin(score: Tensor, tail: int) -> Tensor:
    """score (B, g, n - tail) -> (B, g, n), with the last ``tail`` entries above everything else, the latest on top."""
    above = torch.arange(1, tail + 1, device=score.device) * 1e30  # finite: a budget below the tail keeps its end
    return torch.cat([score.float(), above.float().expand(*score.shape[:-1], -1)], -1)


def text_rows(q: Tensor, k: Tensor, rows: Tensor, where: Tensor | None = None) -> Tensor:
    """Causal attention of some positions of a sequence, over all of it or on some columns of it.

    q (B, H, L, d) already scaled, k (B, g, L, d), rows (B, r) positions, where (B, n) positions or None
    -> (B, H, r, n), or (B, H, r, L), float32.
    """
    index = rows[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
    seen = torch.arange(k.shape[2], device=k.device) <= rows[:, None, :, None]  # (B, 1, r, L)
    out = attention_rows(q.gather(2, index), k, 1.0, seen)
    if where is None:
        return out
    return out.gather(3, where[:, None, None].expand(*out.shape[:3], -1))
