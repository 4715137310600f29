"""Relevance with regard to what tokens of one modality do among themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .case import Case, Item
from .gradient import grad_input


def overlap(a: Tensor, b: Tensor, k: int = 10) -> Tensor:
    """How alike two rankings of the vocabulary are at their top: the overlap of the first d, averaged over d = 1..k.

    a (r, V), b (V,) logits -> (r,), 1 where the first k are the same in the same order, 0 where they share nothing.
    """
    k = min(k, b.shape[-1])
    one = a.argsort(stable=True, dim=-1, descending=True)[:, :k]
    two = b.argsort(stable=True, dim=-1, descending=True)[:k]
    same = (
        (one[:, :, None] == two).float().cumsum(1).cumsum(2).diagonal(dim1=1, dim2=2)
    )  # (r, k): shared by the first d
    return (same / torch.arange(1, k + 1, device=a.device)).mean(-1)


def intra(case: Case, scales: Sequence[int] = (1, 2, 3), context: int = 4, k: int = 10) -> Tensor:
    """Gradient times input, aggregated over scales, without what unrelated text before it looks at.

    Vision: the map is the mean of maps of the image seen at several scales, each as shares of its total. Text: what
    the last ``context`` text tokens look at when they predict their own successors is subtracted, each with weight
    1 - :func:`overlap` of its prediction with the current one, averaged. -> (n,) float32.

    The paper resizes the image; here scale s averages the features over windows of s x s tokens (over s tokens in a row
    where no grid is known), so nothing is encoded anew. How rankings are compared is our choice.

    Liang et al., "Explaining multimodal LLMs via intra-modal token interactions", 2025.
    https://arxiv.org/abs/2509.22415
    """
    last = len(case.ids) - 1
    before = list(range(int(case.where[-1]) + 1, last))[-context:] if context else []
    weights: list[float] = []
    if before:
        with torch.no_grad():
            logits = case.logits(at=torch.tensor([*before, last], device=case.features.device))
        weights = (1 - overlap(logits[:-1], logits[-1], k)).tolist()
    total = torch.zeros(case.n, device=case.features.device)
    for scale in scales:
        seen = blurred(case.features, case.items, scale)
        total += _shares(grad_input(case, seen))
        for at, weight in zip(before, weights):
            if weight:
                total -= weight / len(before) * _shares(grad_input(case, seen, at, int(case.ids[at + 1])))
    return total / len(scales)


def blurred(features: Tensor, items: Sequence[Item], scale: int) -> Tensor:
    """Every token replaced by the mean of its window. features (S, n, D) -> the same shape."""
    if scale == 1:
        return features
    out = features.clone()
    for item in items:
        k = len(item.tokens)
        t, h, w = item.grid or (1, 1, k)
        cell = torch.arange(t * h * w, device=features.device)
        frame, row, column = cell // (h * w), cell // w % h // scale, cell % w // scale
        window = (frame * -(-h // scale) + row) * -(-w // scale) + column
        total = features.new_zeros(features.shape[0], int(window.max()) + 1, features.shape[2])
        total.index_add_(1, window, features[:, item.tokens])
        out[:, item.tokens] = (total / torch.bincount(window)[:, None])[:, window].to(features.dtype)
    return out


def _shares(score: Tensor) -> Tensor:
    return score / score.abs().sum().clamp(min=torch.finfo(torch.float32).tiny)
