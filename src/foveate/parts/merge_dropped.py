"""Entries that are dropped give themselves to the most similar one that stays."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..reduction import Reduction


def nearest(x: Tensor, keep: Tensor, targets: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """For every token the most similar of the kept ones, by cosine: slot (B, n) and similarity (B, n).

    x (B, n, d), keep (B, m) positions, targets (B, m) bool: which of them may be chosen; of equal ones the first.
    """
    unit = normalize(x.float(), dim=-1)
    kept = unit.gather(1, keep[..., None].expand(-1, -1, x.shape[2]))
    best = []
    for at in range(0, x.shape[1], chunk):
        near = unit[:, at : at + chunk] @ kept.mT
        best.append(near.masked_fill_(~targets[:, None], -2).max(-1))
    return torch.cat([b.indices for b in best], 1), torch.cat([b.values for b in best], 1)


def fold(out: Reduction, slot: Tensor, gives: Tensor, share: Tensor, own: Tensor) -> Reduction:
    """A selection whose slots become the mean of the kept token and what is given to it.

    slot (B, n): where each token goes; gives (B, n) bool: which do, none of the kept ones. A giver counts as ``share``
    (B, n) of itself and ``own`` (B, n) of the kept token: the mean runs over the kept token and all those sums.
    """
    gives = gives & (out.assign < 0)
    assign = torch.where(gives, slot, out.assign)
    spare = torch.where(gives, slot, out.m)
    count = share.new_zeros(out.b, out.m + 1).scatter_add(1, spare, gives.float())[:, : out.m]
    lent = share.new_zeros(out.b, out.m + 1).scatter_add(1, spare, own * gives)[:, : out.m]
    at = assign.clamp(min=0)
    weight = torch.where(gives, share, 1 + lent.gather(1, at)) / (1 + count.gather(1, at))
    return Reduction(out.keep, assign, weight * (assign >= 0), None, not bool(gives.any()))


def absorb_weighted(out: Reduction, slot: Tensor, gives: Tensor, mass: Tensor) -> Reduction:
    """A selection whose slots become the mean, weighted by ``mass``, of the kept token and of what is given to it.

    slot (B, n): where each token goes; gives (B, n) bool: which do; mass (B, n) >= 0. Where all of a slot is without
    mass its tokens count alike.
    """
    gives = gives & (out.assign < 0)
    if not bool(gives.any()):
        return out
    assign = torch.where(gives, slot, out.assign)
    at = assign.clamp(min=0)
    inside = (assign >= 0).float()
    total = mass.new_zeros(out.b, out.m).scatter_add(1, at, mass.float() * inside)
    count = mass.new_zeros(out.b, out.m).scatter_add(1, at, inside)
    empty = total.gather(1, at) <= torch.finfo(torch.float32).tiny
    weight = torch.where(empty, 1 / count.gather(1, at).clamp(min=1), mass / total.gather(1, at).clamp(min=1e-38))
    return Reduction(out.keep, assign, weight * inside)
