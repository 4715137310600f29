"""How many directions a set of vectors really uses."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize


def matrix_entropy(x: Tensor, rank: int, real: Tensor | None = None) -> Tensor:
    """Entropy of the first ``rank`` eigenvalues of the trace-one covariance of centred unit vectors, in [0, 1].

    x (..., n, d), real (..., n) bool or None: which rows count -> (...), divided by log d.
    """
    n, d = x.shape[-2:]
    x = x.float()
    if real is None:
        x = x - x.mean(-2, keepdim=True)
    else:
        count = real.sum(-1)[..., None, None].clamp(min=1)
        x = (x - (x * real[..., None]).sum(-2, keepdim=True) / count) * real[..., None]
    z = normalize(x, dim=-1)
    cov = z.mT @ z / n
    trace = cov.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].clamp(min=1e-12)
    s = torch.linalg.eigvalsh(cov / trace + 1e-10 * torch.eye(d, device=x.device)).clamp(min=1e-12)
    s = s.flip(-1)[..., :rank]
    entropy: Tensor = -(s * s.log()).sum(-1) / math.log(max(d, 2))
    return entropy
