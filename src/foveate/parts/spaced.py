"""Evenly spaced positions and values, first and last included."""

from __future__ import annotations

import torch
from torch import Tensor


def spaced(n: int, m: int, device: torch.device | str = "cpu") -> Tensor:
    """m positions among n, rounded half to even in float32; some repeat where m > n. (m,) int64."""
    return torch.linspace(0, n - 1, m, device=device).round().long()


def stepped(n: int, m: int, device: torch.device | str = "cpu") -> Tensor:
    """As :func:`spaced`, rounded down."""
    return torch.linspace(0, n - 1, m, device=device).long()


def apart(n: int, m: int, device: torch.device | str = "cpu") -> Tensor:
    """As :func:`spaced` for m <= n, where rounding never makes two positions one."""
    rank = torch.arange(m, device=device)
    return ((spaced(n, m, device) - rank).cummax(0).values.clamp(max=n - m) + rank) if m else rank


def line(start: float, stop: float, m: int, device: torch.device | str = "cpu") -> Tensor:
    """m values from start to stop in float64, each counted from the start; the last is exact. (m,)."""
    at = torch.arange(m, dtype=torch.float64, device=device) * ((stop - start) / max(m - 1, 1)) + start
    if m > 1:
        at[-1] = stop
    return at
