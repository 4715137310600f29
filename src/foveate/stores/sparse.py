"""Entries of which only the largest numbers are stored, with a bit for each number that tells where they were."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .bits import pack_mask, unpack_mask
from .packed import in_heads, side_by_side
from .stream import Code, Coder


@dataclass(frozen=True)
class Bitmap(Coder):
    """The ``k`` largest numbers, by size, of each entry; of equal ones those of the earlier channels."""

    k: int

    @property
    def block(self) -> int:
        return 1

    def encode(self, x: Tensor) -> Code:
        """x (B, g, t, d) -> which numbers (B, t, g d / 8) uint8 and the numbers (B, t, g k), in order of channels."""
        order = x.float().abs().argsort(dim=-1, stable=True, descending=True)[..., : self.k]
        order = order.sort(-1).values
        mask = torch.zeros(x.shape, dtype=torch.bool, device=x.device).scatter(-1, order, True)
        return pack_mask(side_by_side(mask)), side_by_side(x.gather(-1, order)).contiguous()

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The numbers again, float32 (B, g, t, d)."""
        g, d = shape[1], shape[3]
        mask = unpack_mask(code[0], g * d)  # the numbers lie in the order of its ones
        return in_heads(torch.zeros(mask.shape, device=mask.device).masked_scatter_(mask, code[1].float()), g)
