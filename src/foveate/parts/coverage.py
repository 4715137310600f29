"""Which tokens cover the others best: greedy maximisation of a submodular sum, evaluated lazily."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .select import gram

#: How many candidates are evaluated at once.
BLOCK = 32


def cover(x: Tensor, weight: Tensor, m: int, combine: Literal["times", "plus"] = "times") -> Tensor:
    """Pick m tokens that cover the row and weigh much. x (B, n, D), weight (B, n) >= 0 -> (B, m) as picked.

    A token is covered as well as its most similar picked token is like it (cosine, at least 0). A pick has the highest
    product (or sum) of its weight and of what it adds to the coverage of all tokens. Gains only shrink as more is
    picked, so old ones are upper bounds, and only the few tokens whose bounds lead are evaluated anew. Once nothing is
    left to gain the weight alone decides.
    """
    unit = normalize(x.float(), dim=-1)
    return torch.stack([_cover(s, w, m, combine == "times") for s, w in zip(gram(unit), weight.float())])


def _cover(sim: Tensor, weight: Tensor, m: int, times: bool) -> Tensor:
    """One row: sim (n, n), weight (n,) -> (m,)."""
    n = sim.shape[0]
    covered, free = sim.new_zeros(n), torch.ones(n, dtype=torch.bool, device=sim.device)
    gain = sim.clamp(min=0).sum(0)
    bound = gain * weight if times else gain + weight
    picked = torch.empty(m, dtype=torch.long, device=sim.device)
    for step in range(m):
        fresh = torch.zeros_like(free)
        while True:
            lead = torch.cat([bound.topk(min(BLOCK, n)).indices, _first_best(bound)])
            lead = lead[free[lead] & ~fresh[lead]]
            if not len(lead):  # the best bound is up to date
                break
            gain = sim.index_select(0, lead).sub_(covered).clamp_(min=0).sum(-1)
            bound[lead] = gain * weight[lead] if times else gain + weight[lead]
            fresh[lead] = True
            if bool(fresh[_first_best(bound)]):
                break
        best = _first_best(bound)
        if times and float(bound[best]) <= 0:
            rest = weight.masked_fill(~free, -torch.inf).argsort(stable=True, descending=True)
            picked[step:] = rest[: m - step]
            break
        picked[step] = best
        covered = torch.maximum(covered, sim.index_select(0, best)[0])
        free[best] = False
        bound[best] = -torch.inf
    return picked


def _first_best(score: Tensor) -> Tensor:
    """The leftmost position of the highest score, (1,)."""
    return score.argmax()[None]
