"""A map from its non-zero entries."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reduction import Reduction


def from_entries(n: int, keep: Tensor, owner: Tensor, token: Tensor, share: Tensor) -> Reduction:
    """One row. keep (m,) ascending positions; entry e gives ``share[e]`` of token[e] to the slot at position owner[e].

    Entries for the same slot and token add up. Only where a token serves several slots is the matrix made.
    """
    slot = torch.searchsorted(keep, owner)
    pair, back = (token * len(keep) + slot).unique(return_inverse=True)
    share = torch.zeros(len(pair), device=keep.device).index_add(0, back, share.float())
    token, slot = pair // len(keep), pair % len(keep)
    if len(token) and bool((token[1:] == token[:-1]).any()):
        matrix = torch.zeros(1, len(keep), n, device=keep.device)
        matrix[0, slot, token] = share
        return Reduction.dense(matrix, keep[None])
    assign = torch.full((1, n), -1, device=keep.device).index_copy(1, token, slot[None])
    weight = torch.zeros(1, n, device=keep.device).index_copy(1, token, share[None])
    return Reduction(keep[None], assign, weight, None, bool((share == 1).all()) and len(share) == len(keep))
