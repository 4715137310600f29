"""Which chunks of a text speak of a question."""

from __future__ import annotations

import torch
from torch import Tensor


def retrieve(chunks: Tensor, question: Tensor, top: int, threshold: float = -1.0) -> Tensor:
    """The chunks most like the question. chunks (C, D) and question (D,) of unit length -> (k <= top,) ascending.

    Only those with a product of at least ``threshold`` count; of equal ones the first come first.
    """
    score = chunks.float() @ question.float()
    best = score.argsort(descending=True, stable=True)[:top]
    return best[score[best] >= threshold].sort().values


def mean_embeddings(embedded: Tensor, size: int) -> Tensor:
    """embedded (n, D) -> (C, D) unit means of each ``size`` tokens, the text's own mean taken out first."""
    x = embedded.float()
    x = x - x.mean(0)
    n = len(x)
    number = torch.arange(n, device=x.device) // size
    count = int(number[-1]) + 1 if n else 0
    total = x.new_zeros(count, x.shape[1]).index_add_(0, number, x)
    return torch.nn.functional.normalize(total, dim=1)
