"""How much the picture changes from frame to frame: (B, T), the first frame counts as unlike anything."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize


def pixel_change(pixels: Tensor) -> Tensor:
    """Mean absolute difference to the frame before. pixels (B, T, 3, h, w), 0 to 255 -> (B, T), inf at the first."""
    now = pixels.float().flatten(2)
    change = (now[:, 1:] - now[:, :-1]).abs().mean(-1)
    return torch.cat([change.new_full((len(now), min(1, now.shape[1])), torch.inf), change], 1)


def feature_change(x: Tensor) -> Tensor:
    """1 - cosine with the frame before. x (B, T, D) -> (B, T), inf at the first."""
    unit = normalize(x.float(), dim=-1)
    change = 1 - (unit[:, 1:] * unit[:, :-1]).sum(-1)
    return torch.cat([change.new_full((len(x), min(1, x.shape[1])), torch.inf), change], 1)


def momentum_change(x: Tensor, momentum: float) -> Tensor:
    """Differences of features to the frame before, smoothed over time. x (B, T, ...) -> (B, T - 1, ...) float32.

    d(1) = x(1) - x(0), and d(t) = momentum (x(t) - x(t - 1)) + (1 - momentum) d(t - 1) from then on.
    """
    step = x[:, 1:].float() - x[:, :-1].float()
    out = [step[:, 0]] if step.shape[1] else []
    for t in range(1, step.shape[1]):
        out.append(momentum * step[:, t] + (1 - momentum) * out[-1])
    return torch.stack(out, 1) if out else step


def blocks(pixels: Tensor, cells: int) -> Tensor:
    """Mean colours of cells x cells blocks of each frame. pixels (B, T, 3, h, w) -> (B, T, cells * cells, 3)."""
    b, t, _, h, w = pixels.shape
    side = (max(1, h // cells), max(1, w // cells))
    pooled: Tensor = avg_pool2d(pixels.float().flatten(0, 1), side, side).flatten(2).mT
    return pooled.reshape(b, t, *pooled.shape[1:])


def segment_middles(starts: Tensor) -> Tensor:
    """The frame in the middle of each segment, the earlier of two. starts (T,) bool, True at the first -> ascending."""
    first = starts.nonzero()[:, 0]
    last = torch.cat([first[1:], first.new_tensor([len(starts)])]) - 1
    return (first + last) // 2
