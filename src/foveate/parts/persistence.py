"""Tokens that mattered to recent queries, which go on to matter."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def above_chance(rows: Tensor, visible: Tensor) -> Tensor:
    """Where attention is at least that of an even spread. rows (..., w, n), visible (..., w, 1): keys each row sees."""
    return rows * visible >= 1


def high_bar(rows: Tensor, quantile: float = 0.9) -> Tensor:
    """A quantile of each row, its zeros included: rows (..., w, n) -> (..., w, 1)."""
    n = rows.shape[-1]
    return rows.sort(dim=-1).values[..., min(n - 1, int(quantile * n)), None]


def persistent(rows: Tensor, bar: Tensor, recent: int) -> tuple[Tensor, Tensor]:
    """What survives the last rows. rows (..., w, n), bar (..., w, 1) -> two (..., n) bool: above the bar in any row,
    and the same with the last ``recent`` tokens."""
    pivotal = (rows > bar).any(-2)
    late = torch.arange(rows.shape[-1], device=rows.device) >= rows.shape[-1] - recent
    return pivotal, pivotal | late


class Replay(NamedTuple):
    """One head's queries, each of which sees only what survived those before it.

    Attributes:
        attention: (H, n, n) float32.
        pivotal, kept: (H, n, n) bool, earlier keys that survived before each query; without and with the recent ones.
    """

    attention: Tensor
    pivotal: Tensor
    kept: Tensor


def replay(logits: Tensor, start: int, history: int, recent: int, quantile: float = 0.9) -> Replay:
    """Drop and attend, query by query, from query ``start`` on. logits (H, n, n) float; only its causal part counts.

    The bar of a row is that of its undropped attention; whether a key passed it is asked of the dropped one.
    """
    n = logits.shape[-1]
    seen = torch.ones(n, n, dtype=torch.bool, device=logits.device).tril()
    logits = logits.float().masked_fill(~seen, -torch.inf)
    attention = logits.softmax(-1)
    bar = high_bar(attention, quantile)
    pivotal, kept = torch.zeros_like(logits, dtype=torch.bool), torch.zeros_like(logits, dtype=torch.bool)
    for i in range(start, n):
        rows = slice(max(0, i - history), i)
        pivotal[:, i, :i], kept[:, i, :i] = persistent(attention[:, rows, :i], bar[:, rows], recent)
        here = kept[:, i].clone()
        here[:, i] = True
        attention[:, i] = logits[:, i].masked_fill(~here, -torch.inf).softmax(-1)
    return Replay(attention, pivotal, kept)
