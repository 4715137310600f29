"""Runs of consecutive, similar vectors, each merged into its most important member by a Gaussian kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def runs_of(keys: Tensor, m: int, similar: float, apart: Tensor) -> Tensor:
    """Number of the run that each of n vectors belongs to: (n, d) -> (n,) int64, 0 for the first, ascending.

    Neighbours whose cosine is at least ``similar`` are joined, the most alike first, until m runs are left or none
    qualifies. apart (n,) bool: vectors that stay runs of their own.
    """
    unit = normalize(keys.float(), dim=-1)
    near = (unit[1:] * unit[:-1]).sum(-1)
    free = (near >= similar) & ~apart[1:] & ~apart[:-1]
    count = min(len(keys) - m, int(free.sum()))
    joined = torch.zeros_like(free)
    if count > 0:
        joined[near.masked_fill(~free, -torch.inf).argsort(stable=True, descending=True)[:count]] = True
    starts = torch.cat([free.new_zeros(1), ~joined])
    return starts.cumsum(0)


def pivots(run: Tensor, mass: Tensor) -> Tensor:
    """Position of the member with most mass in each run, the first of equal ones: run (n,), mass (n,) -> (runs,)."""
    order = mass.argsort(stable=True, descending=True)
    order = order[run[order].argsort(stable=True)]
    first = torch.ones_like(run, dtype=torch.bool)
    first[1:] = run[order][1:] != run[order][:-1]
    return order[first]


def gaussian_shares(keys: Tensor, run: Tensor, pivot: Tensor) -> Tensor:
    """Share of each vector in the merged vector of its run, (n,) float32, summing to 1 in each.

    A member at distance r of its pivot weighs exp(-r^2 / s^2), s the mean distance of the run's other members.
    """
    far = (keys.float() - keys[pivot[run]].float()).norm(dim=-1)
    runs = len(pivot)
    count = torch.zeros(runs, device=keys.device).index_add(0, run, torch.ones_like(far)) - 1
    scale = torch.zeros(runs, device=keys.device).index_add(0, run, far) / count.clamp(min=1)
    ratio = far / scale.masked_fill(scale == 0, 1)[run]
    weight = (-ratio.square()).exp()
    share: Tensor = weight / torch.zeros(runs, device=keys.device).index_add(0, run, weight)[run]
    return share
