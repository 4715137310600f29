"""The token that stood in the same place of an earlier frame, and how different the two look."""

from __future__ import annotations

import torch
from torch import Tensor

from .film import Film


def twins(film: Film, source: Tensor) -> Tensor:
    """The position of the token in the same place of another frame, or -1: (B, n).

    source: (B, F) int64, for each frame the one to look at, or -1 for none.
    """
    at = source.clamp(min=0)[..., None].expand_as(film.table)
    return film.picked(film.table.gather(1, at).masked_fill(source[..., None] < 0, -1))


def latest(film: Film) -> Tensor:
    """The position of the last token before in the same place, however many frames earlier, or -1: (B, n)."""
    shifted = torch.full_like(film.table, -1)
    shifted[:, 1:] = film.table.cummax(1).values[:, :-1]
    return film.picked(shifted)


def difference(now: Tensor, before: Tensor, twin: Tensor) -> Tensor:
    """Mean absolute difference of what a token shows now and what its twin showed before.

    now, before (B, n, ...), twin (B, n) -> (B, n) float32, inf where there is none.
    """
    now, before = now.float().flatten(2), before.float().flatten(2)
    other = before.gather(1, twin.clamp(min=0)[..., None].expand_as(before))
    return (now - other).abs().mean(-1).masked_fill(twin < 0, torch.inf)


def scattered(at: Tensor) -> Tensor:
    """A score that spreads: of consecutive numbers the highest m are spaced evenly, whatever m is.

    at (...) int64 -> (...) float32 in [0, 1): multiples of the golden ratio without their whole part.
    """
    return (at.double() * 0.6180339887498949).frac().float()
