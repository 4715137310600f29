"""Attention with its sinks turned down."""

from __future__ import annotations

from torch import Tensor


def sinks_of(rows: Tensor, factor: float) -> Tensor:
    """Entries that draw too much attention in a head. rows (B, H, q, n) of all queries -> (B, H, n) bool.

    Those whose mean attention, over the queries that can see them, is above ``factor`` / (number of entries that
    anything sees). The first one of each head is no such sink: a model needs one place to put attention it has no use
    for.
    """
    seen = (rows > 0).sum(2)
    entries = (seen > 0).sum(-1, keepdim=True).clamp(min=1)
    high = rows.sum(2) / seen.clamp(min=1) > factor / entries
    return high & (high.cumsum(-1) > 1)


def damping(rows: Tensor, sinks: Tensor, scale: float) -> Tensor:
    """What to add to logits so that attention to sinks becomes ``scale`` times what it was.

    rows (B, H, q, n), sinks (B, H, n) bool -> (B, H, q, n). What sinks lose goes to the other entries of a row in
    proportion to what they have; rows that see sinks alone stay as they are.
    """
    mass = (rows * sinks[:, :, None]).sum(-1, keepdim=True).clamp(max=1)
    rest = (1 - mass).clamp(min=1e-6)
    bias: Tensor = (scale * rest / (1 - scale * mass).clamp(min=1e-6)).log() * sinks[:, :, None]
    return bias
