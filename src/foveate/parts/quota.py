"""Sharing a budget among groups of tokens in proportion to their claims."""

from __future__ import annotations

import torch
from torch import Tensor

from .ranks import ranks


def share_out(score: Tensor, group: Tensor, claim: Tensor, m: Tensor | int) -> Tensor:
    """The best tokens of each group, as many as its claim earns. score, group (B, n), claim (B, G) > 0 -> (B, n) bool.

    Seats go one by one to the group with the highest claim / (seats + 1/2) and are filled by score. m: how many tokens
    stay in each row, (B,) or the same for all. A group gets at most its own size, and the rest gets what it leaves.
    """
    turn = (ranks(score, group) + 0.5) / claim.gather(1, group)
    rank = turn.argsort(stable=True, dim=-1).argsort(dim=-1)  # ties go left
    limit = torch.as_tensor(m, device=score.device).expand(len(score))
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
