"""Clusters that are never empty: k-means whose seeds stay in their own clusters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot


def even(n: int, k: int, device: torch.device | str = "cpu") -> Tensor:
    """k evenly spaced positions among n >= k, the first at 0, (k,)."""
    return torch.arange(k, device=device) * n // max(k, 1)


def seeded(x: Tensor, seeds: Tensor, rounds: int) -> Tensor:
    """Spherical k-means. x (B, n, D), seeds (B, k) distinct positions -> (B, n), the seed each token is clustered with.

    Every round averages the directions of each cluster and sends each token to the most similar average; a seed always
    stays with its own cluster, so there are k clusters in the end. ``rounds=0`` sends tokens to the nearest seed.
    """
    unit = normalize(x.float(), dim=-1)
    b, _, d = unit.shape
    k = seeds.shape[1]
    own = torch.arange(k, device=x.device).expand(b, k)
    centre = unit.gather(1, seeds[..., None].expand(b, k, d))
    for step in range(rounds + 1):
        label = (unit @ centre.mT).argmax(-1).scatter(1, seeds, own)
        if step < rounds:
            centre = normalize(one_hot(label, k).to(unit.dtype).mT @ unit, dim=-1)
    return seeds.gather(1, label)
