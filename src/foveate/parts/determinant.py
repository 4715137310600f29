"""Determinantal point processes: subsets whose kernel has a large determinant, so good tokens unlike each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .select import gram


def conditional_kernel(x: Tensor, quality: Tensor) -> Tensor:
    """Cosine similarity of each pair times the quality of both. x (B, n, D), quality (B, n) -> (B, n, n)."""
    return gram(normalize(x.float(), dim=-1) * quality[..., None])  # scaled first: two passes over the kernel less


def greedy_determinant(kernel: Tensor, m: int, floor: float = 1e-5) -> Tensor:
    """Greedily the largest determinant. kernel (B, n, n) positive semidefinite -> (B, m) positions as picked.

    One row of the Cholesky factor is added for each pick. Once what the picks leave of a token (its Schur complement)
    is below ``floor`` times its own entry, nothing but rounding remains: such tokens are taken last, by their entries.
    """
    b, n = kernel.shape[:2]
    own = kernel.diagonal(dim1=1, dim2=2)
    left = own.clone()
    spent = own - own.amax(-1, keepdim=True) - 1  # below every live token, in the order of the entries
    factor = kernel.new_empty(b, m, n)
    table, start = kernel.view(b * n, n), torch.arange(b, device=kernel.device) * n
    picked = torch.empty(m, b, dtype=torch.long, device=kernel.device)
    free = torch.zeros_like(own)  # -inf where picked
    for step in range(m):
        live = left > floor * own
        best = (torch.where(live, left, spent) + free).argmax(-1)
        picked[step] = best
        at = best[:, None]
        column = factor[:, :step].gather(2, at[:, None].expand(-1, step, 1))  # (B, step, 1)
        row = table.index_select(0, best + start) - (column.mT @ factor[:, :step])[:, 0]
        scale = torch.where(live.gather(1, at), left.gather(1, at), torch.inf).rsqrt()
        factor[:, step] = row * scale
        left = left - factor[:, step].square()
        free.scatter_(1, at, -torch.inf)
    return picked.T.contiguous()
