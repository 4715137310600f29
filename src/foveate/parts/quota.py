"""Sharing a budget among groups of tokens in proportion to their claims."""

from __future__ import annotations

import torch
from torch import Tensor


def share_out(score: Tensor, group: Tensor, claim: Tensor, m: Tensor | int) -> Tensor:
    """The best tokens of each group, as many as its claim earns. score, group (B, n), claim (B, G) > 0 -> (B, n) bool.

    Seats go one by one to the group with the highest claim / (seats + 1/2) and are filled by score. m: how many tokens
    stay in each row, (B,) or the same for all. A group gets at most its own size, and the rest gets what it leaves.
    """
    b, n = score.shape
    by = score.float().argsort(stable=True, dim=-1, descending=True)
    sorted_group = group.gather(1, by)
    again = sorted_group.argsort(stable=True, dim=-1)
    by, sorted_group = by.gather(1, again), sorted_group.gather(1, again)  # by group, and by score inside
    at = torch.arange(n, device=score.device).expand(b, n)
    new = torch.ones_like(sorted_group, dtype=torch.bool)
    new[:, 1:] = sorted_group[:, 1:] != sorted_group[:, :-1]
    seat = at - torch.where(new, at, 0).cummax(-1).values
    turn = (seat + 0.5) / claim.gather(1, sorted_group)
    turn = torch.empty_like(turn).scatter(1, by, turn)  # back to the order of positions, so that ties go left
    rank = turn.argsort(stable=True, dim=-1).argsort(dim=-1)
    limit = torch.as_tensor(m, device=score.device).expand(b)
    return rank < limit[:, None]


def seats(claim: Tensor, room: Tensor, m: int) -> Tensor:
    """How many of m each group gets. claim (G,) > 0, room (G,) int64: at most so many, in all at least m -> (G,) int64.

    Seats go one by one to the group with the highest claim / (seats + 1/2), the earlier one of equals.
    """
    wide = max(1, int(room.max())) if len(room) else 1
    place = torch.arange(wide, device=room.device)
    turn = (place + 0.5) / claim.float().clamp(min=1e-12)[:, None]
    turn = turn.masked_fill(place >= room[:, None], torch.inf)
    return (turn.flatten().argsort(stable=True)[:m] // wide).bincount(minlength=len(room))
