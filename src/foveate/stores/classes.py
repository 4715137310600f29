"""Keys and values in two precisions: salient entries in more bits than the others."""

from __future__ import annotations

import torch
from torch import Tensor

from .coders import Scaled
from .compact import Halves
from .mixed import Mixed
from .packed import Grid, Tile, small
from .stream import Coder, Stream


def two_classes(keys: Tensor, values: Tensor, salient: Tensor, bits: int, low_bits: int, recent: int) -> Halves:
    """keys, values (B, g, n, d) and salient (B, g, n) bool -> the entries, of which new ones wait whole.

    Keys are coded per channel, values per token after each channel is divided by the square root of its largest number.
    Each class has scales of its own. New entries are coded in the more bits, ``recent`` of them at a time.
    """
    scales = small(keys)
    factor = values.float().abs().amax(2, keepdim=True).sqrt()
    factor = torch.where(factor > 0, factor, 1).to(scales)
    sides = []
    for x, tile, divided in ((keys, Tile(0, 1), False), (values, Tile(1, 0), True)):
        pair: list[Coder] = [Grid(b, tile, scales=scales) for b in (bits, low_bits)]
        high, low = [Scaled(coder, factor) for coder in pair] if divided else pair
        sides.append(Stream(x, high, step=recent, first=Mixed.stretch(x, salient, high, low)))
    return Halves(*sides)
