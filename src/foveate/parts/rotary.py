"""What rotary position embeddings alone do to attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rotary_bias(at: Tensor, to: Tensor, dim: int, base: float) -> Tensor:
    """Scaled product of two rotated vectors of ones: how position alone weighs a pair.

    at (B, r) and to (B, n) positions of queries and keys -> (B, r, n), by head width ``dim`` and the rotary base.
    """
    rate = (torch.arange(0, dim, 2, device=at.device, dtype=torch.float32) * (-math.log(base) / dim)).exp()
    rows, columns = (p.float()[..., None] * rate for p in (at, to))
    product = rows.cos() @ columns.cos().mT + rows.sin() @ columns.sin().mT
    return product * (2 / math.sqrt(dim))
