"""Clusters around density peaks: a centre is dense, and far from everything denser."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Clusters(NamedTuple):
    """centres (B, c): positions, the strongest peak first. label (B, n): the cluster that each token belongs to."""

    centres: Tensor
    label: Tensor


def density_peaks(x: Tensor, count: int, near: int, noise: Tensor | None = None) -> Clusters:
    """Cluster x (B, n, D) into ``count`` groups; the density of a token comes from its ``near`` nearest, itself too.

    Distances are divided by the root of D. noise (B, n) or None breaks ties of density (a millionth of it is added);
    without it the earlier token counts as the denser one.
    """
    x = x.float()
    b, n = x.shape[:2]
    apart = torch.cdist(x, x) / x.shape[-1] ** 0.5
    density = (-apart.topk(min(near, n), dim=-1, largest=False).values.square().mean(-1)).exp()
    if noise is not None:
        density = density + 1e-6 * noise
    at = torch.arange(n, device=x.device)
    denser = density[:, None] > density[:, :, None]  # (B, i, j): j is denser than i
    denser = denser | ((density[:, None] == density[:, :, None]) & (at < at[:, None]))
    far = apart.flatten(1).amax(-1)[:, None, None]
    parent = torch.where(denser, apart, far).amin(-1)
    peaks = (parent * density).argsort(dim=-1, descending=True, stable=True)[:, :count]
    to_peaks = apart.gather(1, peaks[..., None].expand(-1, -1, n))  # (B, c, n)
    own = torch.arange(count, device=x.device).expand(b, -1)
    return Clusters(peaks, to_peaks.argmin(1).scatter(1, peaks, own))
