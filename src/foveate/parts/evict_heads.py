"""Eviction where every KV head of a layer keeps a number of entries of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SignalError
from ..reduction import Reduction
from ..tokens import Entries
from .evict import real_first
from .score import attention_rows, causal_tail


def evict_each(score: Tensor, counts: Tensor, entries: Entries) -> Reduction:
    """The best entries of each head. score (B, g, n), counts (B, g) int64 -> map of (B * g, n) rows, short ones padded.

    Padding leaves first; equal scores are taken from the left.
    """
    b, g, n = score.shape
    order = real_first(score, entries).reshape(b * g, n).argsort(stable=True, dim=-1, descending=True)
    rank = torch.empty_like(order).scatter(1, order, torch.arange(n, device=order.device).expand_as(order))
    return Reduction.from_mask(rank < counts.reshape(b * g, 1))


def place(entries: Entries) -> Tensor:
    """Where each entry stands in its row, counted from the first real one: (B, n), negative at padding on the left."""
    b, n = entries.keys.shape[0], entries.n
    if entries.valid is None:
        return torch.arange(n, device=entries.keys.device).expand(b, n)
    return entries.valid.cumsum(-1) - 1


def ends(entries: Entries, sinks: int) -> Tensor:
    """A score that keeps the first ``sinks`` entries, then the latest: (B, g, n)."""
    b, g, n = entries.keys.shape[:3]
    at = place(entries)
    return torch.where((at >= 0) & (at < sinks), 2 * n - at, at)[:, None].expand(b, g, n).float()


def received(entries: Entries) -> Tensor:
    """Attention received from the prompt, mean over the query heads of each KV head: (B, g, n).

    From the signal of that name, or from the queries at hand, in slices of them.
    """
    b, g, n = entries.keys.shape[:3]
    total = entries.received
    if total is None:
        q = entries.queries
        if q is None:
            raise SignalError("this method needs the attention received or the queries, and the site gave neither")
        w = min(q.shape[2], n)
        mask = causal_tail(w, n, q.device)
        total = torch.zeros(b, q.shape[1], n, device=q.device)
        for at in range(0, w, 256):
            seen = mask[at : at + 256]
            if entries.valid is not None:
                seen = seen & entries.valid[:, None, None]
            rows = attention_rows(q[:, :, q.shape[2] - w + at :][:, :, :256], entries.keys, entries.scaling, seen)
            total = total + rows.nan_to_num(0.0).sum(2)  # a query that is itself padding sees nothing
    return total.float().view(b, g, -1, n).mean(2)
