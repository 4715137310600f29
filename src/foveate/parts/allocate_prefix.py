"""How many entries each layer drops when all of them are to cover the same share of their attention."""

from __future__ import annotations

import torch
from torch import Tensor


def prefix_forget(importance: Tensor, share: float, sinks: int = 1, slack: int = 5, steps: int = 100) -> list[int]:
    """Entries that each layer drops. importance (L, n) >= 0, share: of all entries, dropped -> L numbers.

    The coverage p is bisected until the drops are within ``slack`` of the target, then they are scaled to it and cut to
    whole numbers. Where no p comes so near (many equal entries) the bisection ends all the same.
    """
    layers, n = importance.shape
    mass = importance.float().sort(dim=-1, descending=True).values
    mass = (mass / mass.sum(-1, keepdim=True)).cumsum(-1).contiguous()
    target, low, high = share * n * layers, 0.0, 1.0
    counts = [0] * layers
    for _ in range(steps):
        p = (low + high) / 2
        reach = torch.searchsorted(mass, torch.full((layers, 1), p, device=mass.device))[:, 0] + 1
        counts = (n - reach - sinks - 1).clamp(min=0).tolist()
        total = sum(counts)
        if abs(total - target) < slack:
            break
        low, high = (p, high) if total > target else (low, p)
    total = sum(counts)
    return [int(c * target / total) for c in counts] if total else counts
