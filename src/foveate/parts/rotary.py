"""What rotary position embeddings alone do to attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rotary_bias(at: Tensor, to: Tensor, dim: int, base: float) -> Tensor:
    """Scaled product of two rotated vectors of ones: how position alone weighs a pair.

    at (B, r) and to (B, n) positions of queries and keys -> (B, r, n), by head width ``dim`` and the rotary base.
    """
    rate = (torch.arange(0, dim, 2, device=at.device, dtype=torch.float32) * (-math.log(base) / dim)).exp()
    rows, columns = (p.float()[..., None] * rate for p in (at, to))
    product = rows.cos() @ columns.cos().mT + rows.sin() @ columns.sin().mT
    return product * (2 / math.sqrt(dim))


def turn(keys: Tensor, by: Tensor, rates: Tensor) -> Tensor:
    """Keys as if each stood ``by`` positions later. keys (..., n, d), by (..., n), rates (d/2,) -> keys' shape.

    Channels i and i + d/2 form a pair that RoPE turns by ``rates[i]`` for each position.
    """
    angle = by[..., None].float() * rates.float()
    cos, sin = angle.cos(), angle.sin()
    left, right = keys.float().chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(keys.dtype)


def mean_turn(start: Tensor, count: int, rates: Tensor) -> Tensor:
    """Mean of the RoPE matrices of some positions. start (B,), rates (B, d/2) -> (B, d, d), to be applied to columns.

    The positions are start, start + 1, ..., start + count - 1.
    """
    at = start[:, None].double() + torch.arange(count, device=start.device)
    angle = (at[..., None] * rates[:, None].double()).float()  # the product of a late position must not be rounded
    cos, sin = (torch.diag_embed(f.mean(1)) for f in (angle.cos(), angle.sin()))
    return torch.cat([torch.cat([cos, -sin], -1), torch.cat([sin, cos], -1)], -2)
