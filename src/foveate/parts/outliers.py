"""Which values stand out from the rest of their row, so that a threshold and no budget decides how many."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def upper_outliers(score: Tensor) -> Tensor:
    """Above the third quartile by more than 1.5 times the distance of the quartiles. score (B, n) -> (B, n) bool.

    Quartiles are interpolated linearly. Infinite values stand out and do not count for the quartiles.
    """
    known = score.float().masked_fill(~score.isfinite(), torch.nan)
    low, high = torch.nanquantile(known, torch.tensor([0.25, 0.75], device=score.device), dim=-1, keepdim=True)
    out: Tensor = (score > high + 1.5 * (high - low)) | (score == torch.inf)
    return out


def local_outlier_factor(value: Tensor, k: int) -> Tensor:
    """How much sparser each value's surroundings are than those of its k nearest. value (B, n) -> (B, n) float64.

    Breunig's factor in one dimension; more than 1.5 is an outlier by the usual rule. Of equally near neighbours the
    smaller value counts, of equal values the earlier position. A single value has factor 1.
    """
    b, n = value.shape
    k = min(k, n - 1)
    if k < 1:
        return torch.ones(b, n, dtype=torch.float64, device=value.device)
    v, order = value.double().sort(stable=True, dim=-1)
    # in sorted order the k nearest of a value are among the k to its left and the k to its right
    at = torch.arange(n, device=value.device)[:, None] + torch.cat([torch.arange(-k, 0), torch.arange(1, k + 1)]).to(
        v.device
    )
    gap = (pad(v, (k, k), value=torch.inf)[:, at + k] - v[..., None]).abs()
    gap, near = gap.sort(stable=True, dim=-1)
    gap, near = gap[..., :k], at.expand(b, -1, -1).gather(2, near[..., :k])
    rows = torch.arange(b, device=v.device)[:, None, None]
    reach = torch.maximum(gap, gap[..., -1][rows, near])
    density = 1 / (reach.mean(-1) + 1e-10)
    factor = density[rows, near].mean(-1) / density
    return torch.empty_like(factor).scatter(1, order, factor)
