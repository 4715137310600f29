"""Which tokens to keep, given a score or the features. Ties go to the earlier position."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def top(score: Tensor, m: int, prefix: int = 0) -> Tensor:
    """The m highest scores. score (B, n), the first ``prefix`` tokens always kept -> (B, m) ascending positions.

    A stable sort in float32: equal scores are taken from the left on every device and in every dtype.
    """
    score = score.float()
    if prefix:
        score = score.index_fill(-1, torch.arange(prefix, device=score.device), torch.inf)
    order: Tensor = score.argsort(stable=True, dim=-1, descending=True)
    return order[..., :m].sort(-1).values


def max_min(x: Tensor, m: int) -> Tensor:
    """Greedy max-min dispersion under cosine distance. x (B, n, D) -> (B, m) positions in the order picked.

    Start from the token whose nearest neighbour is farthest, then always add the token farthest from all picked ones.
    """
    unit = normalize(x.float(), dim=-1)
    b = x.shape[0]
    near = gram(unit)  # (B, n, n) cosine similarity
    near.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    closest = near.amax(-1)  # similarity to the nearest other token; the pick is where it is smallest
    table = near.view(-1, near.shape[-1])
    start = torch.arange(b, device=x.device) * near.shape[-1]
    picked = torch.empty(m, b, dtype=torch.long, device=x.device)
    for step in range(m):  # plain kernels only: advanced indexing wakes the thread pool, at ten times the cost
        best = closest.argmin(-1)
        picked[step] = best
        row = table.index_select(0, best + start)
        closest = row if step == 0 else torch.maximum(closest, row)
        closest.scatter_(1, best[:, None], torch.inf)  # identical tokens: never pick one twice
    return picked.T.contiguous()


def gram(x: Tensor, block: int = 1024) -> Tensor:
    """x (B, n, D) -> x x^T (B, n, n), each pair computed once: half the work of a plain product when n is large."""
    b, n = x.shape[:2]
    if n <= block:
        return x @ x.mT
    out = x.new_empty(b, n, n)
    for at in range(0, n, block):
        part = x[:, at : at + block] @ x[:, at:].mT
        out[:, at : at + block, at:] = part
        out[:, at + block :, at : at + block] = part[:, :, block:].mT
    return out
