"""What a model attends to while it repeats its prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from .score import attention_rows


def recalled(
    queries: Tensor,
    replayed: Tensor,
    keys: Tensor,
    scaling: float,
    sinks: int = 0,
    row_scale: Tensor | None = None,
    column_scale: Tensor | None = None,
    rows: int = 256,
) -> Tensor:
    """The strongest attention that each entry of a stretch of the prompt gets while that stretch is repeated.

    queries (B, H, r, d) and replayed (B, g, r, d): of the tokens of the repetition, instruction included; keys
    (B, g, sinks + c, d): the first few entries of the prompt and those of the stretch -> (B, g, c).

    The softmax runs over these keys and, causally, the repetition itself, not over the whole prompt. row_scale (B, r)
    and column_scale (B, H, c) multiply attention before the maximum over queries and heads. ``rows`` queries at a time.
    """
    b, g, c = keys.shape[:3]
    r = queries.shape[2]
    both = torch.cat([keys, replayed], 2)
    best = torch.full((b, queries.shape[1], c - sinks), -torch.inf, device=keys.device)
    for i in range(0, r, rows):
        part = queries[:, :, i : i + rows]
        end = i + part.shape[2]
        seen = torch.arange(c + end, device=keys.device) <= c + torch.arange(i, end, device=keys.device)[:, None]
        attention = attention_rows(part, both[:, :, : c + end], scaling, seen)[..., sinks:c]
        if row_scale is not None:
            attention = attention * row_scale[:, None, i:end, None]
        if column_scale is not None:
            attention = attention * column_scale[:, :, None]
        best = torch.maximum(best, attention.amax(2))
    return best.view(b, g, -1, c - sinks).amax(2)
