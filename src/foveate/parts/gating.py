"""Which patches of a video changed since the frame before, and whose embedding an unchanged one can use again."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .film import Film


class Gate(NamedTuple):
    """What a gate says of each token; all (B, n).

    Attributes:
        open: the patch changed, or there is none at its place in the frame before.
        motion: how much it changed, as a share of the largest change in its frame; 1 where there is nothing before.
        source: the position of the token whose embedding stands for it, itself if open.
    """

    open: Tensor
    motion: Tensor
    source: Tensor


def unlikeness(a: Tensor, b: Tensor) -> Tensor:
    """1 - structural similarity of two patches, from 0 to 2. a, b (..., k) pixel values -> (...)."""
    span = torch.maximum(a.amax(-1) - a.amin(-1), b.amax(-1) - b.amin(-1)).clamp(min=1)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_a, mean_b = a.mean(-1), b.mean(-1)
    apart_a, apart_b = a - mean_a[..., None], b - mean_b[..., None]
    spread = apart_a.square().mean(-1) + apart_b.square().mean(-1)
    light = (2 * mean_a * mean_b + c1) * (2 * (apart_a * apart_b).mean(-1) + c2)
    return (1 - light / ((mean_a**2 + mean_b**2 + c1) * (spread + c2)).clamp(min=1e-12)).clamp(0, 2)


def gate(film: Film, patches: Tensor, threshold: float, metric: str = "l2") -> Gate:
    """Compare each patch with the one before. patches (B, n, k) pixel values; metric "l2" or "ssim".

    A negative threshold opens the gate for all.
    """
    earlier = film.before()
    other = torch.stack([row.index_select(0, at) for row, at in zip(patches, earlier.clamp(min=0))])  # our own copy
    change = other.sub_(patches).norm(dim=-1) if metric == "l2" else unlikeness(patches, other)
    change = change.masked_fill(earlier < 0, 0)
    largest = film.laid(change).amax(-1).gather(1, film.frame)
    motion = (change / largest.clamp(min=1e-12)).masked_fill(earlier < 0, 1)
    opens = (earlier < 0) | (change > threshold)
    if threshold < 0:
        opens, motion = torch.ones_like(opens), torch.ones_like(motion)
    since = film.laid(torch.where(opens, film.frame, -1), -1).cummax(1).values  # the frame it was last open in
    return Gate(opens, motion, film.picked(film.table.gather(1, since.clamp(min=0))))


def turned_divergence(a: Tensor, b: Tensor) -> Tensor:
    """Half the Kullback-Leibler divergences of the mean of two distributions from each. a, b (..., V) logits -> (...).

    The Jensen-Shannon divergence measures the two from their mean; this is the other way round.
    """
    p, q = a.float().log_softmax(-1), b.float().log_softmax(-1)
    mean = (p.exp() + q.exp()) / 2
    return 0.5 * (mean * (2 * mean.clamp(min=1e-38).log() - p - q)).sum(-1)
