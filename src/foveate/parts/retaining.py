"""Importance of cache entries from small trained heads, and what survives a prefill in pieces."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, silu


class RetainingHead(NamedTuple):
    """A trained head of one layer: fc1 (w, H d + 2 g d) and fc2 (g, w), with biases or None."""

    fc1: Tensor
    fc2: Tensor
    bias1: Tensor | None = None
    bias2: Tensor | None = None

    def score(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, H, n, d), k and v (B, g, n, d), all before RoPE -> (B, g, n) importance."""
        x = torch.cat([t.transpose(1, 2).flatten(2) for t in (q, k, v)], -1).float()
        return linear(silu(linear(x, self.fc1, self.bias1)), self.fc2, self.bias2).mT


def survivors(score: Tensor, budget: int, chunk: int, stable: int) -> Tensor:
    """What a prefill in pieces leaves in the cache. score (R, n) -> (R, min(budget, n)) ascending positions.

    After each piece the best ``budget`` entries stay, and the newest ``stable`` of them in any case, except after the
    last piece, when only scores count.
    """
    rows, n = score.shape
    at = torch.arange(n, device=score.device).expand(rows, n)
    held = at[:, :0]
    stable = min(stable, budget)
    for start in range(0, n, chunk):
        held = torch.cat([held, at[:, start : start + chunk]], 1)
        value = score.float().gather(1, held)
        if start + chunk < n and stable:
            value = torch.cat([value[:, :-stable], torch.full_like(value[:, -stable:], torch.inf)], 1)
        best = value.argsort(dim=-1, descending=True, stable=True)[:, :budget].sort(-1).values
        held = held.gather(1, best)
    return held
