"""The directions along which vectors are longest: the right singular vectors of a matrix, strongest first."""

from __future__ import annotations

import torch
from torch import Tensor


def longest(x: Tensor, rank: int) -> Tensor:
    """x (..., n, c) -> (..., c, rank) float32, orthonormal columns; vectors that span few directions are no matter."""
    wide = x.double()  # the search fails in single precision where eigenvalues repeat
    _, vectors = torch.linalg.eigh(wide.mT @ wide)
    best: Tensor = vectors[..., vectors.shape[-1] - rank :].flip(-1).float()
    return best
