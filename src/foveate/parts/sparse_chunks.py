"""Chunks of uneven length, and which tokens a block of queries attends to when it ranks whole chunks.

DHSA (Xiong et al., "Long-Context Modeling with Dynamic Hierarchical Sparse Attention for On-Device LLMs", 2025,
https://arxiv.org/abs/2510.24606). Where chunks end is predicted by a trained network; its answers are inputs here.
"""

from __future__ import annotations

import torch
from torch import Tensor


def boundaries(strength: Tensor, most: int, theta: float | None = None, apart: int = 0) -> Tensor:
    """Chunk starts and the end of a sequence. strength (n,): how strongly a chunk ends at each token -> (c + 1,).

    The strongest ends above ``theta`` are taken, at most ``most``, none within ``apart`` tokens of a stronger one.
    """
    n = len(strength)
    values = strength.tolist()
    ends: list[int] = []
    near = bytearray(n)  # 1 within ``apart`` of an end that was taken
    for i in strength.argsort(descending=True, stable=True).tolist():
        if len(ends) == most or (theta is not None and not values[i] > theta):
            break
        if not apart or not near[i]:
            ends.append(i)
            for j in range(max(0, i - apart), min(n, i + apart + 1)):
                near[j] = 1
    return torch.tensor(sorted({0, n, *(i + 1 for i in ends)}), device=strength.device)


def chunk_similarity(q: Tensor, k: Tensor, bounds: Tensor, block: int, pooling: str, real: int) -> Tensor:
    """q (H, Q, d) with Q a multiple of ``block`` and its first ``real`` rows true, k (H, n, d) -> (Q / block, c).

    Heads are averaged first. Chunks of keys are means; pooling "avgpool" takes means of queries, "avgpool_norm" scales
    both by the root of their length, "maxpool" takes the largest query in each channel.
    """
    blocks = q.float().mean(0).unflatten(0, (-1, block))  # (Q / block, block, d)
    lengths = bounds.diff()
    run = torch.cat([k.new_zeros(1, k.shape[-1]).float(), k.float().mean(0).cumsum(0)])
    chunks = (run[bounds[1:]] - run[bounds[:-1]]) / lengths.clamp(min=1)[:, None]
    pooled = blocks.amax(1) if pooling == "maxpool" else blocks.mean(1)
    if pooling == "avgpool_norm":
        first = torch.arange(len(blocks), device=q.device) * block
        pooled = pooled * (real - first).clamp(0, block).sqrt()[:, None]
        chunks = chunks * lengths.sqrt()[:, None]
    score: Tensor = pooled @ chunks.mT
    return score


def pick_tokens(score: Tensor, bounds: Tensor, block: int, m: int, local: int, window: int | None = None) -> Tensor:
    """Tokens that each block of queries attends to: score (R, c) of chunks -> (R, m) ascending.

    A block sees what begins before its end (and within ``window`` of it): the newest ``local`` of that, then tokens of
    the best chunks, from the left. Blocks that see fewer than m repeat the last token of the sequence.
    """
    n = int(bounds[-1])
    at = torch.arange(n, device=score.device)
    end = (torch.arange(len(score), device=score.device)[:, None] + 1) * block
    seen = at < end
    if window is not None:
        seen = seen & (at >= end - window)
    count = seen.sum(-1, keepdim=True)
    newest = seen & (seen.flip(-1).cumsum(-1).flip(-1) <= min(local, m))
    chunk = torch.searchsorted(bounds, at, right=True) - 1
    token = score[:, chunk].masked_fill(newest, torch.inf).masked_fill(~seen, -torch.inf)
    order = token.argsort(dim=-1, descending=True, stable=True)[:, :m]
    order = order.masked_fill(torch.arange(order.shape[1], device=score.device) >= count, n - 1)
    if order.shape[1] < m:
        order = torch.cat([order, order.new_full((len(order), m - order.shape[1]), n - 1)], 1)
    return order.sort(-1).values
