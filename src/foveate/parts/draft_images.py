"""What a trained draft head makes of an image: few vectors in place of many tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def queried(image: Tensor, queries: Tensor, wk: Tensor, wv: Tensor, wo: Tensor) -> Tensor:
    """Learned queries attend over an image's embeddings, without mask or positions (ViSpec, arXiv 2509.15235).

    image (t, D), queries (nq, H, d), projections (D, D) as y = x W^T -> (nq, D) float32.
    """
    nq, heads, size = queries.shape
    k, v = ((image.float() @ w.float().T).view(-1, heads, size) for w in (wk, wv))
    logits = torch.einsum("qhd,thd->hqt", queries.float(), k) * size**-0.5
    mixed = torch.einsum("hqt,thd->qhd", logits.softmax(-1), v)
    return mixed.reshape(nq, -1) @ wo.float().T


def pooled(image: Tensor, queries: Tensor) -> Tensor:
    """softmax(queries image^T) image, unscaled: image (t, D), queries (nq, D) -> (nq, D) (FLASH, arXiv 2505.12728)."""
    x = image.float()
    return (queries.float() @ x.T).softmax(-1) @ x


def segments(mask: Tensor) -> list[tuple[int, int]]:
    """Unbroken runs [start, stop) of True in mask (n,)."""
    padded = torch.nn.functional.pad(mask.to(torch.int8), (1, 1))
    edges = padded.diff()
    return list(zip((edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist()))
