"""How much of a matrix each of its rows accounts for: approximate leverage scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def leverage(x: Tensor, window: int | None = None, rank: int | None = None, seed: int = 0) -> Tensor:
    """Squared length of each row, or its part in the squared lengths of its window. x (..., n, d) -> (..., n) float32.

    Args:
        window: rows are compared with those of their window of so many consecutive ones; None: not compared.
        rank: rows are first multiplied by a Gaussian matrix with so many columns (the same one at every call).
        seed: of that matrix.
    """
    x = x.float()
    if rank is not None:
        g = torch.randn(x.shape[-1], rank, generator=torch.Generator().manual_seed(seed)).to(x.device)
        x = x @ (g / rank**0.5)
    power = x.square().sum(-1)
    if window is None:
        return power
    n = power.shape[-1]
    parts: Tensor = pad(power, (0, -n % window)).unflatten(-1, (-1, window))
    whole = parts.sum(-1, keepdim=True)
    share: Tensor = (parts / whole.masked_fill(whole == 0, 1)).flatten(-2)[..., :n]
    return share
