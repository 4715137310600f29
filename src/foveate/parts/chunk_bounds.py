"""Which chunks of a cache a query may care about, told from the largest and smallest key channels of each chunk.

A product of a query with any key of a chunk lies between two numbers that follow from these (a chunk's abstract), so
that a chunk can be ruled out without reading it (LeoAM, arXiv 2506.20187; the upper bound is also Quest's).
"""

from __future__ import annotations

import torch
from torch import Tensor


def abstracts(keys: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """keys (g, n, d) -> largest and smallest channels of every ``size`` keys, (g, C, d) each; the last may be fewer."""
    parts = keys.split(size, 1)
    if not keys.shape[1]:
        return keys, keys
    return torch.stack([p.amax(1) for p in parts], 1), torch.stack([p.amin(1) for p in parts], 1)


def coarser(high: Tensor, low: Tensor, fan: int) -> tuple[Tensor, Tensor]:
    """Abstracts of every ``fan`` chunks together: (g, C, d) -> (g, C', d)."""
    if not high.shape[1]:
        return high, low
    return (
        torch.stack([p.amax(1) for p in high.split(fan, 1)], 1),
        torch.stack([p.amin(1) for p in low.split(fan, 1)], 1),
    )


def bounds(q: Tensor, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """q (H, d) scaled, abstracts (g, C, d), H = g x group -> upper and lower bound of each head's logits, (H, C)."""
    g, c, d = high.shape
    queries = q.float().view(g, -1, d)
    up, down = queries.clamp(min=0), queries.clamp(max=0)
    above = up @ high.float().mT + down @ low.float().mT
    below = up @ low.float().mT + down @ high.float().mT
    return above.reshape(-1, c), below.reshape(-1, c)


def candidates(upper: Tensor, lower: Tensor, sizes: Tensor, m: int) -> Tensor:
    """Chunks that may hold one of the m largest numbers. upper, lower, sizes (C,) -> (C,) bool.

    None that is left out does: m numbers elsewhere are at least as large as its upper bound.
    """
    order = lower.argsort(descending=True, stable=True)
    enough = int((sizes[order].cumsum(0) < m).sum())
    if enough >= len(order):
        return torch.ones_like(upper, dtype=torch.bool)
    return upper >= lower[order[enough]]


def choose(
    q: Tensor, fine: tuple[Tensor, Tensor], coarse: tuple[Tensor, Tensor], size: int, fan: int, m: int
) -> Tensor:
    """Chunks of ``size`` tokens to read for one query, ascending: about m tokens of them, the first chunk always.

    q (H, d) scaled; abstracts of the chunks and of every ``fan`` of them, (g, C, d) each. A token counts by its largest
    logit over the heads, each head's measured from its highest bound. First whole groups of chunks are ruled out, and
    only the others are looked at chunk by chunk; of what is left the highest upper bounds are read.
    """
    count = fine[0].shape[1]
    if m >= count * size:
        return torch.arange(count, device=q.device)
    above, below = bounds(q, *coarse)
    top = above.amax(1, keepdim=True)
    groups = above.shape[1]
    sizes = torch.full((groups,), fan * size, device=q.device)
    sizes[-1] = (count - (groups - 1) * fan) * size
    some = candidates((above - top).amax(0), (below - top).amax(0), sizes, m)
    at = torch.arange(count, device=q.device)
    at = at[some.repeat_interleave(fan)[:count]]
    above, below = bounds(q, fine[0][:, at], fine[1][:, at])
    upper, lower = (above - top).amax(0), (below - top).amax(0)
    left = candidates(upper, lower, torch.full_like(at, size), m)
    at, upper = at[left], upper[left]
    best = at[upper.argsort(descending=True, stable=True)[: max(1, m // size)]]
    if not bool((best == 0).any()):
        best = torch.cat([best.new_zeros(1), best])
    return best.sort().values
