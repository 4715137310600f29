"""Tokens that take in their most similar neighbours, each weighted by how much it matters. One row at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reduction import Reduction


def absorb(near: Tensor, into: Tensor, others: Tensor, weight: Tensor, k: int, average: bool = True) -> Tensor:
    """Shares of some tokens after each takes in its k most similar others.

    near: (c, o) similarity of the c tokens ``into`` with the o ``others``, -inf where one may not be taken.
    into: (c,), others: (o,) positions; one that is listed twice counts twice.
    weight: (n,) >= 0 of all tokens. ``average``: a mean of token and neighbours by weight, of which the token itself is
        one; otherwise the token as it is plus the weighted sum of its neighbours.
    -> (c, n) float32.
    """
    best = near.argsort(stable=True, dim=-1, descending=True)[:, :k]
    found = others[best]
    share = weight[found].masked_fill(near.gather(1, best) == -torch.inf, 0)
    out = torch.zeros(len(into), len(weight), device=weight.device).scatter_add(1, found, share)
    own = weight[into][:, None] if average else torch.ones_like(share[:, :1])
    if average:
        own = torch.where(own + share.sum(-1, keepdim=True) > 0, own, 1.0)  # nothing weighs anything: itself
    out = out.scatter_add(1, into[:, None], own)
    return out / out.sum(-1, keepdim=True) if average else out


def rows(shares: Tensor, position: Tensor) -> Reduction:
    """A map from its rows in any order. shares (m, n), position (m,) that each inherits; repeated ones are left out."""
    keep, first = position.sort(stable=True)
    new = torch.ones_like(keep, dtype=torch.bool)
    new[1:] = keep[1:] != keep[:-1]
    return Reduction.dense(shares[first[new]][None], keep[new][None])
