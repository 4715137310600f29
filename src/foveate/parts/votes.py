"""Scores of cache entries, one for each KV head, that methods of eviction share; higher is kept.

What may serve as a score is one of :data:`BASES`: what the last queries of the prompt look at, what the very last one
looks at, how small a key is, how unlike the others a key is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import SignalError
from ..tokens import Entries
from .score import attention_rows, pin, window_votes

BASES = ("window", "last_query", "small_keys", "odd_keys")


def given(entries: Entries, name: str) -> Tensor:
    """A field that the site must have supplied.

    Raises:
        SignalError: it did not.
    """
    value: Tensor | None = getattr(entries, name)
    if value is None:
        raise SignalError(f"this cache method needs {name}, and the site did not give it")
    return value


def votes(entries: Entries, base: str = "window", window: int = 64, pool: int = 5) -> Tensor:
    """Score of every entry but the last few that the base keeps in any case: (B, g, n - w)."""
    if base == "small_keys":
        size: Tensor = entries.keys.float().norm(dim=-1)
        return -size
    if base == "odd_keys":
        return unlike_mean(entries.keys, entries.valid)
    queries = last_queries(entries, window if base == "window" else 1)
    if base == "window":
        return window_votes(queries, entries.keys, entries.scaling, pool, entries.valid)
    return last_look(queries, entries)


def last_queries(entries: Entries, window: int) -> Tensor:
    """Queries of the last ``window`` tokens, fewer where that would leave no entry to choose: (B, H, w, d)."""
    queries = given(entries, "queries")
    w = min(window, entries.n - 1, queries.shape[2])
    return queries[:, :, queries.shape[2] - w :]


def last_look(queries: Tensor, entries: Entries) -> Tensor:
    """Attention of the last query on all entries before it, mean of all heads, the same for every KV head.

    queries (B, H, w <= 1, d) -> (B, g, n - w).
    """
    b, g, n = entries.keys.shape[:3]
    w = queries.shape[2]
    if not w:
        return torch.zeros(b, g, n, device=entries.keys.device)
    mask = None if entries.valid is None else entries.valid[:, None, None]
    rows = attention_rows(queries, entries.keys, entries.scaling, mask)[:, :, 0, : n - 1]
    return rows.mean(1, keepdim=True).expand(b, g, n - 1)


def unlike_mean(keys: Tensor, valid: Tensor | None = None) -> Tensor:
    """Minus the cosine of each key with the mean direction of all: keys (B, g, n, d), valid (B, n) -> (B, g, n)."""
    unit = normalize(keys.float(), dim=-1)
    if valid is not None:
        unit = unit * valid[:, None, :, None]
    centre = normalize(unit.mean(2, keepdim=True), dim=-1)
    return -(unit @ centre.mT)[..., 0]


def complete(score: Tensor, n: int) -> Tensor:
    """score (B, g, n - w) -> (B, g, n): the last w entries come before all others, the latest first."""
    return pin(score, n - score.shape[-1])


def crown(score: Tensor, n: int) -> Tensor:
    """score (B, g, n - w) -> (B, g, n): the last w entries get the row's highest score plus 1."""
    w = n - score.shape[-1]
    if not w:
        return score
    peak = score.amax((1, 2), keepdim=True) if score.shape[-1] else score.new_zeros(len(score), 1, 1)
    return torch.cat([score, (peak + 1).expand(-1, score.shape[1], w)], -1)


def ends_first(score: Tensor, first: int, last: int) -> Tensor:
    """score (B, g, n) with the first few entries above all others, and after them the last few, the latest first."""
    n = score.shape[-1]
    first, last = min(first, n), max(0, min(last, n - first))
    score = pin(score[..., : n - last], last)
    top = 3e38 - 1e33 * torch.arange(first, device=score.device)
    score[..., :first] = top.float()
    return score
