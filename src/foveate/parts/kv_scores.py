"""Which cache entries matter, told from keys and values alone or from what a prompt asks; higher is better.

All KV heads of a layer decide together: a norm is that of their vectors side by side.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .regions import best_in_groups


def joint(x: Tensor) -> Tensor:
    """Heads side by side: (B, g, n, d) -> (B, n, g d) float32."""
    return x.float().transpose(1, 2).flatten(2)


def asked(queries: Tensor, keys: Tensor, scaling: float, group: Tensor, groups: int) -> Tensor:
    """What some queries pay each entry, when every group of entries is asked by itself: (B, n).

    queries (B, H, w, d), keys (B, g, n, d), group (B, n) int64 below ``groups``. Shares of a group sum to 1 for each
    query; they are summed over the queries and averaged over the heads.
    """
    b, h, w = queries.shape[:3]
    wide = keys.float().repeat_interleave(h // keys.shape[1], 1)
    logits = queries.float() @ wide.mT * scaling
    at = group[:, None, None].expand_as(logits)
    peak = logits.new_full((b, h, w, groups), -torch.inf).scatter_reduce(3, at, logits, "amax")
    power = (logits - peak.gather(3, at)).exp()
    total = power.new_zeros(b, h, w, groups).scatter_add(3, at, power)
    return (power / total.gather(3, at)).sum(2).mean(1)


def received_since(attention: Tensor) -> Tensor:
    """What each entry gets from itself and all later queries of one attention map (..., q, n >= q) -> (..., q)."""
    q = attention.shape[-2]
    return attention[..., :q].float().tril().sum(-2)


def group_softmax(score: Tensor, group: Tensor, groups: int) -> Tensor:
    """Softmax of score (B, n) within each group of entries."""
    peak = score.new_full((len(score), groups), -torch.inf).scatter_reduce(1, group, score, "amax")
    power = (score - peak.gather(1, group)).exp()
    return power / power.new_zeros(len(score), groups).scatter_add(1, group, power).gather(1, group)


def unlike_pivots(keys: Tensor, group: Tensor, counts: Tensor, share: int = 16) -> Tensor:
    """Score of entries when near-duplicates are to be avoided: (B, n).

    keys (B, n, d), group (B, n), counts (B, G): how many each group will keep. One entry in ``share`` of those is a
    pivot, taken by smallest key norm; the others rank by how little they resemble the pivots on average.
    """
    b, n, d = keys.shape
    pivot = best_in_groups(-keys.norm(dim=-1), group, (counts + share - 1) // share)
    unit = normalize(keys, dim=-1)
    where = group[..., None].expand(b, n, d)
    centre = keys.new_zeros(b, counts.shape[1], d).scatter_add(1, where, unit * pivot[..., None])
    number = keys.new_zeros(b, counts.shape[1]).scatter_add(1, group, pivot.float())
    near = (unit * centre.gather(1, where)).sum(-1) / number.gather(1, group).clamp(min=1)
    return torch.where(pivot, 2.0, -near)
