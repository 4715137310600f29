"""Attention sinks: columns that nearly every query looks at whatever it asks, and attention with them toned down."""

from __future__ import annotations

import torch
from torch import Tensor


def sink_columns(attention: Tensor, rows: Tensor, times: float = 5.0, first: int = 1) -> Tensor:
    """Which keys are sinks in each head. attention (B, H, r, L) causal, rows (B, r) positions -> (B, H, L) bool.

    A sink receives, averaged over those of the queries that can see it, more than ``times`` the uniform share 1 / L.
    The ``first`` keys are left alone: the sink at the start of a sequence helps.
    """
    n = attention.shape[-1]
    at = torch.arange(n, device=attention.device)
    seen = (rows[..., None] >= at).sum(1)  # (B, L)
    mean = attention.float().sum(2) / seen[:, None].clamp(min=1)
    return (mean > times / n) & (at >= first)


def calibrate(attention: Tensor, sinks: Tensor, beta: float = 0.4) -> Tensor:
    """Leave sinks ``beta`` of their attention and give the rest to a row's other keys in proportion to what they have.

    attention (B, H, r, L) with rows that sum to 1, sinks (B, H, L) bool -> the same shape, rows still sum to 1. A row
    that attends to nothing but sinks stays as it is.
    """
    attention = attention.float()
    mine = attention.masked_fill(~sinks[:, :, None], 0)
    others = attention - mine
    left = others.sum(-1, keepdim=True)
    freed = (1 - beta) * mine.sum(-1, keepdim=True)
    out = beta * mine + others * (1 + freed / left.clamp(min=torch.finfo(torch.float32).tiny))
    return torch.where(left > 0, out, attention)
