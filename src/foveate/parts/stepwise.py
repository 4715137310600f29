"""Merging down in steps, in each of which even tokens join their most similar odd ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..reduction import Reduction
from .merge import bipartite

#: From how many tokens to how many -> how many are merged away in each step.
Schedule = Callable[[int, int], Sequence[int]]


def halvings(n: int, m: int) -> list[int]:
    """Steps from n tokens to m: half of those left each time, and in the last one what is still too many."""
    steps: list[int] = []
    while n > m:
        steps.append(min(n // 2, n - m))
        n -= steps[-1]
    return steps


def long_halvings(n: int, m: int) -> list[int]:
    """As :func:`halvings`, but where half of an odd number is just short of m, all even tokens go at once."""
    steps: list[int] = []
    while n // 2 > m:
        steps.append(n // 2)
        n -= n // 2
    return [*steps, n - m] if n > m else steps


def stepwise(x: Tensor, steps: Sequence[int], heads: int = 1, carry: bool = False) -> Reduction:
    """Merge x (B, n, D) down by so many tokens in each step.

    heads: what is compared is the mean over so many equal parts of D. carry: a merged token weighs as many as it stands
    for; otherwise merging is a plain mean each time. The slots come in the order that the next step would see: those
    that found no partner, most similar first, then those that took others in.
    """
    value, size = x.float(), None
    whole = Reduction.identity(x.shape[0], x.shape[1], x.device)
    for r in steps:
        if r <= 0:
            continue
        metric = value.unflatten(-1, (heads, -1)).mean(-2) if heads > 1 else value
        match = bipartite(metric, r)
        step = Reduction.merge(match.into, size).listed(match.order)
        value, whole = step(value), whole.then(step)
        size = step.size(size) if carry else None
    return whole


def merged_down(
    x: Tensor, group: Tensor, count: Tensor, schedule: Schedule = halvings, heads: int = 1, carry: bool = False
) -> tuple[Tensor, Tensor]:
    """Merge the tokens of each group down to a given number. x (B, n, D), group (B, n), count (B, G).

    Tokens of group -1 are left out. -> into (B, n): the position each token merges into, or -1; and (B, n) its share.
    """
    b, n, d = x.shape
    into, share = torch.full_like(group, -1).flatten(), torch.zeros(b * n, device=x.device)
    g = count.shape[1]
    row = torch.arange(b, device=x.device)[:, None]
    key = torch.where(group >= 0, row * g + group, b * g).flatten()
    order = key.argsort(stable=True)  # tokens of one group follow each other, in the order of positions
    size = torch.bincount(key, minlength=b * g + 1)
    start = size.cumsum(0) - size
    pairs = torch.stack([size[:-1], count.flatten()], -1)
    flat = x.reshape(b * n, d)
    for s, c in pairs.unique(dim=0).tolist():
        if not s or not c:
            continue
        some = ((pairs[:, 0] == s) & (pairs[:, 1] == c)).nonzero()
        where = order[start[some] + torch.arange(s, device=x.device)]  # (R, s) positions of the whole batch
        out = stepwise(flat[where], schedule(s, c), heads, carry)
        into[where] = where.gather(1, out.keep.gather(1, out.assign))
        share[where] = out.weight
    return (into.view(b, n) - row * n).masked_fill(into.view(b, n) < 0, -1), share.view(b, n)
