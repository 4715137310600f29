"""What CompressKV measures once, before use: which heads retrieve meaning, and which layers bear eviction badly."""

from __future__ import annotations

import torch
from torch import Tensor


def retrieval_scores(attention: Tensor, answer: Tensor) -> Tensor:
    """Attention that each head pays the whole span of an answer while the answer is decoded.

    attention (H, t, n) of t decoding steps on the prompt, answer (n,) bool, True on the span -> (H,), to be summed over
    many prompts. A head that looks around the copied word, not only at it, scores too.
    """
    score: Tensor = (attention.float() * answer).sum((1, 2))
    return score


def voters(scores: Tensor, first: int) -> tuple[int, ...]:
    """The ``first`` best heads of each layer, layer after layer. scores (L, H)."""
    order = scores.float().argsort(dim=-1, stable=True, descending=True)[:, :first]
    return tuple(order.flatten().tolist())


def layer_importance(whole: Tensor, cut: Tensor) -> tuple[float, ...]:
    """Relative error of each layer's attention output under eviction, summing to 1. whole, cut (L, t, D)."""
    error = torch.linalg.vector_norm(whole.float() - cut.float(), dim=(1, 2))
    error = error / torch.linalg.vector_norm(whole.float(), dim=(1, 2)).clamp(min=1e-12)
    return tuple((error / error.sum().clamp(min=1e-12)).tolist())
