"""Attention as the tokens see it that everybody looks at."""

from __future__ import annotations

from torch import Tensor


def global_rows(attention: Tensor, threshold: float) -> Tensor:
    """Mean attention row of the global tokens: those that receive more than ``threshold`` times the mean.

    attention (B, H, n, n) after the softmax -> (B, n); not a number where no token is global.
    """
    rows = attention.float().mean(1)
    taken = rows.mean(1)
    high = (taken > threshold * taken.mean(-1, keepdim=True)).float()
    return (high[:, None] @ rows)[:, 0] / high.sum(-1, keepdim=True)
