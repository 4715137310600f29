"""How long the values of cache entries are after the output projection."""

from __future__ import annotations

import torch
from torch import Tensor


def projected_norms(values: Tensor, output: Tensor, order: int, chunk: int = 1024) -> Tensor:
    """values (B, g, n, d), output (B, H, d, D) -> (B, H, n): L1 or L2 norm of each value through each query head.

    The L2 norm needs no projected vectors; the L1 norm makes them for ``chunk`` entries of one head at a time.
    """
    b, g, n, _ = values.shape
    values, output = values.float(), output.float()
    each = output.shape[1] // g
    out = values.new_empty(b, output.shape[1], n)
    for h in range(output.shape[1]):
        v = values[:, h // each]
        if order == 2:
            gram = output[:, h] @ output[:, h].mT
            out[:, h] = ((v @ gram) * v).sum(-1).clamp(min=0).sqrt()
            continue
        for i in range(0, n, chunk):
            part = slice(i, i + chunk)
            out[:, h, part] = torch.linalg.vector_norm(v[:, part] @ output[:, h], ord=1, dim=-1)
    return out
