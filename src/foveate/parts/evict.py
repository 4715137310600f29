"""From scores of cache entries to the map that evicts the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reduction import Reduction
from ..tokens import Entries
from .budget import floor_budget
from .select import top


def evict(score: Tensor, keep: float | int, entries: Entries) -> Reduction:
    """The best entries of each head. score (B, g, n) -> map of (B * g, n) rows to m.

    Shares are rounded down, as the field's toolkits do. Padding leaves first, so what remains of it is leftmost and
    equally long in every head of a row.
    """
    b, g, n = score.shape
    score = score.float()
    if entries.valid is not None:
        score = score.masked_fill(~entries.valid[:, None], -torch.inf)
    if entries.held is not None:
        score = score.masked_fill(~entries.held, -torch.inf)
    m = min(keep, n) if isinstance(keep, int) else floor_budget(keep, n)
    return Reduction.take(top(score.reshape(b * g, n), m), n)
