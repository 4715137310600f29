"""Group the least important tokens by cell and keep one token of each group."""

from __future__ import annotations

import torch
from torch import Tensor


def farewell(importance: Tensor) -> Tensor:
    """When each token would go, 0 first: the least important first, of equals the later one. (B, n) -> (B, n)."""
    order = importance.float().argsort(dim=-1, descending=True, stable=True)
    at = torch.arange(order.shape[1] - 1, -1, -1, device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, at)


def left(turn: Tensor, cell: Tensor) -> Tensor:
    """How many tokens are left when the first c to go become one token for each cell: (B, n + 1), c from 0 to n.

    turn (B, n): see :func:`farewell`; cell (B, n) int64 from 0. Never rises with c, and falls by at most one.
    """
    b, n = turn.shape
    first = torch.full((b, int(cell.max()) + 1), n, device=turn.device).scatter_reduce(1, cell, turn, "amin")
    opens = (first.gather(1, cell) == turn).long()
    groups = torch.zeros(b, n + 1, dtype=torch.long, device=turn.device)
    groups[:, 1:] = torch.zeros_like(opens).scatter(1, turn, opens).cumsum(-1)
    return n - torch.arange(n + 1, device=turn.device) + groups


def grouped(turn: Tensor, cell: Tensor, count: Tensor, most: int | None = None) -> Tensor:
    """The first ``count`` (B, 1) to go join the last of them in their cell: (B, n), where each token goes.

    most: if more tokens than that are left, those that would go first are dropped (-1).
    """
    b, n = turn.shape
    goes = turn < count
    lead = torch.full((b, int(cell.max()) + 1), -1, device=turn.device)
    lead = lead.scatter_reduce(1, cell, torch.where(goes, turn, -1), "amax").gather(1, cell)  # turn of the last one
    order = turn.argsort(-1)
    at = torch.arange(n, device=turn.device).expand(b, -1)
    into = torch.where(goes, order.gather(1, lead.clamp(min=0)), at)
    if most is None or most >= n:
        return into
    rank = torch.where(into == at, turn, -1)  # of the tokens left
    least = rank.sort(dim=-1, descending=True).values[:, most - 1 : most]
    return into.masked_fill(turn.gather(1, into) < least, -1)
