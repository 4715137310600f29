"""From scores of cache entries to the map that evicts the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reduction import Reduction
from ..tokens import Entries
from .pooled_budget import number_kept
from .select import top


def evict(score: Tensor, keep: float | int, entries: Entries) -> Reduction:
    """The best entries of each head. score (B, g, n) -> map of (B * g, n) rows to m.

    Shares are rounded down, as the field's toolkits do. Padding leaves first, so what remains of it is leftmost and
    equally long in every head of a row.
    """
    b, g, n = score.shape
    return Reduction.take(top(real_first(score, entries).reshape(b * g, n), number_kept(keep, n)), n)


def real_first(score: Tensor, entries: Entries) -> Tensor:
    """score (B, g, n) in float32, -inf where there is padding or nothing held."""
    score = score.float()
    if entries.valid is not None:
        score = score.masked_fill(~entries.valid[:, None], -torch.inf)
    if entries.held is not None:
        score = score.masked_fill(~entries.held, -torch.inf)
    return score
