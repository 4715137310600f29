"""Pages of a cache that one layer picks and the following layers attend to; nothing is evicted.

DELTA (Zarch et al., "DELTA: Dynamic Layer-Aware Token Attention for Efficient Long-Context Reasoning", 2025,
https://arxiv.org/abs/2510.09883): a few selection layers run whole attention and pick pages, the layers up to the next
selection layer read only those, and the first layers of the model always read everything.
"""

from __future__ import annotations

import torch
from torch import Tensor


def page_scores(attention: Tensor, page: int) -> Tensor:
    """attention (B, H, n) of the current query, n a multiple of ``page`` -> (B, n / page).

    A token counts as its largest share over heads, a page as the sum of its tokens; of equal pages the earlier wins.
    """
    score: Tensor = attention.float().amax(1).unflatten(-1, (-1, page)).sum(-1)
    return score - 1e-7 * torch.arange(score.shape[-1], device=score.device)


def pick_pages(score: Tensor, used: Tensor, m: int, recent: int) -> Tensor:
    """The newest ``recent`` pages of each row and the best others, m in all. score (B, P), used (B,): pages in use.

    -> (B, m) ascending; rows with fewer pages than m end in -1.
    """
    at = torch.arange(score.shape[1], device=score.device)
    newest = (at >= used[:, None] - recent) & (at < used[:, None])
    score = score.masked_fill(newest, torch.inf).masked_fill(at >= used[:, None], -torch.inf)
    order = score.argsort(dim=-1, descending=True, stable=True)[:, :m]
    order = order.masked_fill(order >= used[:, None], score.shape[1]).sort(-1).values
    out = order.new_full((len(order), m), -1)
    out[:, : order.shape[1]] = order.masked_fill(order >= score.shape[1], -1)
    return out
