"""Averaging runs of consecutive tokens: as many runs in each group as its share of the budget says."""

from __future__ import annotations

import torch
from torch import Tensor

from .quota import share_out
from .regions import group_sizes


def shares(sizes: Tensor, m: Tensor) -> Tensor:
    """How many of m slots each group gets, in proportion to its size and never more. sizes (B, G), m (B,) -> (B, G).

    Every row gets exactly m, or all it has. Earlier groups get what does not divide.
    """
    b, groups = sizes.shape
    longest = int(sizes.sum(-1).max()) if sizes.numel() else 0
    if not longest:
        return torch.zeros_like(sizes)
    at = torch.arange(longest, device=sizes.device).expand(b, longest).contiguous()
    ends = sizes.cumsum(-1)
    group = torch.searchsorted(ends, at, right=True)  # groups: the row is over
    claim = torch.cat([sizes.float().clamp(min=1), sizes.new_full((b, 1), 1e-30, dtype=torch.float32)], 1)
    seats = share_out(torch.zeros_like(at, dtype=torch.float32), group, claim, torch.minimum(m, ends[:, -1]))
    return group.new_zeros(b, groups + 1).scatter_add(1, group, seats.long())[:, :groups]


def run_means(group: Tensor, counts: Tensor) -> Tensor:
    """Cut each group's tokens, in order, into runs of nearly equal length: (B, n), the first token of each one's run.

    group (B, n) from 0, counts (B, G) how many runs; -1 for tokens of a group that gets none.
    """
    b, n = group.shape
    sizes = group_sizes(group, counts.shape[1])
    by = group.argsort(stable=True, dim=-1)
    listed = group.gather(1, by)
    rank = torch.arange(n, device=group.device) - (sizes.cumsum(1) - sizes).gather(1, listed)
    many = counts.gather(1, listed)
    run = rank * many // sizes.gather(1, listed) + (counts.cumsum(1) - counts).gather(1, listed)
    run = run.masked_fill(many == 0, n)
    run = torch.empty_like(run).scatter(1, by, run)
    at = torch.arange(n, device=group.device).expand(b, n)
    first = at.new_full((b, n + 1), n).scatter_reduce(1, run, at, "amin")
    return first.gather(1, run).masked_fill(run == n, -1)


def thinned(count: int, most: int) -> Tensor:
    """Which of ``count`` frames are used when ``most`` are too many: evenly spaced, from the first."""
    at = torch.arange(min(count, most))
    return at if count <= most else at * count // most
