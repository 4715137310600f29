"""Which tokens stand best for all others, when some of those matter more: weighted facility location, lazily."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

#: How many candidates are evaluated at once.
BLOCK = 32


class Stands(NamedTuple):
    """picked: positions in the order picked, (m,). left: share of the weighted need still open after each, (m,)."""

    picked: Tensor
    left: Tensor


def stand_for(like: Tensor, need: Tensor, m: int) -> Stands:
    """Greedily pick m tokens that stand for all others. like (n, n) >= 0, need (n,) >= 0, one row at a time.

    A token is stood for as well as its most similar pick is like it; a pick adds most to the sum of that over all
    tokens, each times its need. Gains only shrink, so old ones are upper bounds, and only the few candidates whose
    bounds lead are evaluated anew. Ties go to the left; picks that would add nothing go by need.
    """
    n = len(need)
    gain = like @ need
    total = float((like.amax(-1) * need).sum())
    covered, free = like.new_zeros(n), torch.ones(n, dtype=torch.bool, device=like.device)
    picked = torch.empty(m, dtype=torch.long, device=like.device)
    left = like.new_zeros(m)
    got = 0.0
    for step in range(m):
        fresh = torch.zeros_like(free)
        while True:
            best = int(gain.argmax())
            if fresh[best] or float(gain[best]) <= 0:
                break
            lead = gain.topk(min(BLOCK, n)).indices
            lead = torch.cat([lead[free[lead] & ~fresh[lead]], lead.new_tensor([best])])
            gain[lead] = like.index_select(0, lead).sub_(covered).clamp_(min=0) @ need
            fresh[lead] = True
        if float(gain[best]) <= 0:
            rest = need.masked_fill(~free, -torch.inf).argsort(stable=True, descending=True)
            picked[step:] = rest[: m - step]
            break
        picked[step] = best
        got += float(gain[best])
        left[step] = max(0.0, 1 - got / total) if total > 0 else 0.0
        covered = torch.maximum(covered, like[best])
        free[best] = False
        gain[best] = -torch.inf
    return Stands(picked, left)


def fitting(unit: Tensor, most: int = 1024, width: int = 64) -> Tensor:
    """Directions short enough to compare all with all. unit (B, n, D) of length 1 -> (B, n, d) of length 1.

    Rows of more than ``most`` tokens are turned at random (always alike) into ``width`` dimensions, which keeps cosines
    to about 1 / sqrt(width).
    """
    if unit.shape[1] <= most or unit.shape[2] <= width:
        return unit
    turn = torch.randn(unit.shape[2], width, generator=torch.Generator().manual_seed(0)).to(unit.device)
    return normalize(unit @ turn, dim=-1)


def power(x: Tensor, exponent: float) -> Tensor:
    """x >= 0 to a power, in place; halves are roots, which cost a tenth of a general power."""
    whole, half = int(exponent), exponent - int(exponent) == 0.5
    if exponent == 1:
        return x
    if not half or whole < 1:
        return x.pow_(exponent)
    root = x.sqrt()
    return x.pow_(whole).mul_(root)
