"""Positions carried behind embeddings, as numbers that every dtype holds exactly.

An engine caches what the encoder gave by the media, and learns where a token stands only from its row. bfloat16 holds
whole numbers up to 256, so a position is written as three digits to base 128: up to two million. vLLM is not imported
here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError

BASE, DIGITS, VALUES = 128, 3, 4
#: Columns that a row carries: the digits of its position (time, row, column) and of its number in the item.
WIDTH = DIGITS * VALUES


def write(places: Tensor) -> Tensor:
    """places (L, 3) int64 in [0, 128^3), counted from where the item begins -> (L, WIDTH) int64 digits.

    Raises:
        InputError: a position that does not fit.
    """
    number = torch.arange(len(places))[:, None]
    values = torch.cat([places, number], 1)
    if len(places) and not 0 <= int(values.min()) <= int(values.max()) < BASE**DIGITS:
        raise InputError(
            f"positions must lie in 0 to {BASE**DIGITS - 1}. Got {int(values.min())} to {int(values.max())}."
        )
    digits = [values // BASE**i % BASE for i in reversed(range(DIGITS))]
    return torch.cat(digits, 1)


def read(columns: Tensor) -> Tensor:
    """columns (L, WIDTH) in any dtype -> (L, 4) int64: time, row, column, and the row's number in its item."""
    digits = columns.float().round().long().cpu().split(VALUES, dim=1)
    out = torch.zeros_like(digits[0])
    for digit in digits:
        out = out * BASE + digit
    return out
