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


class Groups(NamedTuple):
    """into (G, P): the place in its row that each token joins, -1 for none. rank (G, P): 0 for the strongest peak."""

    into: Tensor
    rank: Tensor


def peaks(x: Tensor, there: Tensor, near: Tensor | int) -> tuple[Tensor, Tensor]:
    """How much of a density peak each token is among those of its row, for rows of different lengths.

    x (G, P, D), there (G, P) bool, near: neighbours that make up the density, (G,) or the same for all
    -> (G, P), -inf where none stands, and the distances (G, P, P), inf to where none stands.
    """
    x = x.float()
    g, p, d = x.shape
    both = there[:, None] & there[:, :, None]
    apart = torch.cdist(x, x) / d**0.5
    far = apart.masked_fill(~both, 0).flatten(1).amax(-1)[:, None, None] if p else apart[:, :1]
    apart = apart.masked_fill(~both, torch.inf)
    limit = torch.minimum(torch.as_tensor(near, device=x.device).expand(g), there.sum(-1)).clamp(min=1)
    closest = apart.topk(min(p, int(limit.max()) if g else 1), dim=-1, largest=False).values.square()
    used = torch.arange(closest.shape[-1], device=x.device) < limit[:, None]
    mean = closest.masked_fill(~used[:, None], 0).sum(-1) / limit[:, None]
    density = (-mean).exp().masked_fill(~there, -1)
    at = torch.arange(p, device=x.device)
    denser = density[:, None] > density[:, :, None]
    denser = denser | ((density[:, None] == density[:, :, None]) & (at < at[:, None]))
    parent = torch.where(denser & both, apart, far).amin(-1) if p else density
    return (parent * density).masked_fill(~there, -torch.inf), apart


def grouped_peaks(x: Tensor, there: Tensor, counts: Tensor, near: Tensor | int) -> Groups:
    """:func:`density_peaks` in rows of different lengths. x (G, P, D), there (G, P) bool, counts (G,) clusters of each.

    A row whose count is its length, or more, stays as it is, and ranks by place.
    """
    g, p = there.shape
    at = torch.arange(p, device=x.device).expand(g, p)
    into = at.masked_fill(~there | (counts <= 0)[:, None], -1)
    rank = at.clone()
    some = ((counts > 0) & (counts < there.sum(-1))).nonzero()[:, 0]
    if not len(some):
        return Groups(into, rank)
    score, apart = peaks(x[some], there[some], near if isinstance(near, int) else near[some])
    order = score.argsort(stable=True, dim=-1, descending=True)
    rank[some] = torch.empty_like(order).scatter(1, order, at[some])
    centre = rank[some] < counts[some, None]
    joined = apart.masked_fill(~centre[:, None], torch.inf).argmin(-1)
    joined = torch.where(centre, at[some], joined).masked_fill(~there[some], -1)
    return Groups(into.index_copy(0, some, joined), rank)
