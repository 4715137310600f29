"""Rating vectors against those that follow them."""

from __future__ import annotations

import torch
from torch import Tensor


def lag_scores(x: Tensor, lag: int) -> Tensor:
    """How much a token varies over channels on the scale of the next part. x (..., p * lag, d) -> (..., p - 1, lag).

    Each part of ``lag`` tokens is normalised, channel by channel, by the smallest and largest value of the part after
    it; a token's score is the spread of its channels, softmaxed over its part. A channel without any range counts 0.
    """
    parts: Tensor = x.float().unflatten(-2, (-1, lag))
    low, high = parts[..., 1:, :, :].amin(-2, keepdim=True), parts[..., 1:, :, :].amax(-2, keepdim=True)
    gone = high == low
    scaled = (parts[..., :-1, :, :] - low) / (high - low).masked_fill(gone, 1)
    spread: Tensor = scaled.masked_fill(gone, 0).std(-1)
    return spread.softmax(-1)


def ranks(score: Tensor) -> Tensor:
    """Place of each score in its row, 0 for the lowest; of equal ones the earlier comes higher."""
    order = score.argsort(stable=True, dim=-1, descending=True)
    place = torch.arange(score.shape[-1] - 1, -1, -1, device=score.device).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, place)
