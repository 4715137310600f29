"""Ranks inside groups of tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(score: Tensor, group: Tensor) -> Tensor:
    """How many tokens of its own group come before each one: (B, n) int64, 0 for the highest score, ties go left.

    score (B, n) float, group (B, n) int64.
    """
    by = score.float().argsort(stable=True, dim=-1, descending=True)
    by = by.gather(1, group.gather(1, by).argsort(stable=True, dim=-1))  # by group, and by score inside
    mine = group.gather(1, by)
    at = torch.arange(group.shape[1], device=group.device).expand_as(group)
    new = torch.ones_like(mine, dtype=torch.bool)
    new[:, 1:] = mine[:, 1:] != mine[:, :-1]
    seat = at - torch.where(new, at, 0).cummax(-1).values
    return torch.empty_like(seat).scatter(1, by, seat)
