"""Attention of the last few queries of a prompt on all cache entries, and what it says of each entry."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tokens import Entries
from .score import attention_rows, causal_tail


def window_rows(entries: Entries, queries: Tensor) -> Tensor:
    """queries (B, H, w, d) of the last w tokens -> (B, H, w, n) float32; rows of padding are zero.

    An entry that a head no longer holds gets nothing from its queries.
    """
    w, n = queries.shape[2], entries.n
    mask = causal_tail(w, n, queries.device)[None, None]
    if entries.valid is not None:
        mask = mask & entries.valid[:, None, None]
    if entries.held is not None:
        mask = mask & entries.held.repeat_interleave(queries.shape[1] // entries.held.shape[1], 1)[:, :, None]
    rows = attention_rows(queries, entries.keys, entries.scaling, mask).nan_to_num_(0.0)
    if entries.valid is not None:
        rows = rows * entries.valid[:, None, n - w :, None]
    return rows


def per_head(x: Tensor, g: int) -> Tensor:
    """Mean over the query heads of each KV head: (B, H, ...) -> (B, g, ...)."""
    shared: Tensor = x.unflatten(1, (g, -1)).mean(2)
    return shared


def column_entropy(rows: Tensor) -> Tensor:
    """How evenly an entry's attention is spread over the queries, in nats: (..., w, n) -> (..., n)."""
    total = rows.sum(-2, keepdim=True)
    share = rows / total.masked_fill(total == 0, 1)
    spread: Tensor = -torch.special.xlogy(share, share).sum(-2)
    return spread


def output_gradient(rows: Tensor, values: Tensor) -> Tensor:
    """Length of the derivative of each query's output by the logit of an entry, mean over the queries.

    rows (B, H, w, n), values (B, g, n, d) -> (B, H, n). The derivative is p (v - o) with p the attention, v the entry's
    value and o = sum of p v the output; its length needs no vectors, only products with the outputs.
    """
    values = values.float().repeat_interleave(rows.shape[1] // values.shape[1], 1)
    out = rows @ values  # (B, H, w, d)
    square = values.square().sum(-1)[:, :, None] - 2 * out @ values.mT + out.square().sum(-1, keepdim=True)
    grad: Tensor = (rows * square.clamp(min=0).sqrt()).mean(2)
    return grad


def sparsity(rows: Tensor, part: float) -> Tensor:
    """Share of the entries that queries nearly ignore: below ``part`` of the row's peak. (B, H, w, n) -> (B,).

    Rows of padding, all zero, do not count. What a query cannot see counts as ignored, the same in every layer.
    """
    peak = rows.amax(-1, keepdim=True)
    used = (rows > 0) & (rows >= part * peak)
    count = (peak > 0).flatten(1).sum(-1).clamp(min=1) * rows.shape[-1]
    share: Tensor = 1 - used.flatten(1).sum(-1) / count
    return share


def shares(score: Tensor) -> Tensor:
    """Non-negative scores on one scale: each row of (..., n) divided by its sum (zeros stay)."""
    total = score.sum(-1, keepdim=True)
    return score / total.masked_fill(total == 0, 1)
