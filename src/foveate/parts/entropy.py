"""How much there is to see in a patch."""

from __future__ import annotations

import torch
from torch import Tensor


def grey_entropy(pixels: Tensor) -> Tensor:
    """Entropy in bits of the 256 grey levels of each patch. pixels (..., 3, h, w) from 0 to 255 -> (...) float32."""
    grey = (pixels.float().sum(-3) * 0.3333).round().long().clamp(0, 255).flatten(-2)  # (..., h w)
    count = torch.zeros(*grey.shape[:-1], 256, device=grey.device)
    share = count.scatter_add(-1, grey, torch.ones_like(grey, dtype=count.dtype)) / grey.shape[-1]
    return -(share * (share + 1e-10).log2()).sum(-1)
