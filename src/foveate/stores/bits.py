"""Small numbers packed into bytes: 1, 2, 3, 4 or 8 bits each, or 1.58, which is three values, five of them a byte."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_

#: Widths that can be packed.
BITS = (1, 1.58, 2, 3, 4, 8)
_TRITS = 5  # 3 ** 5 = 243 <= 256
_EIGHT = 8  # eight numbers of three bits are three bytes


def levels(bits: float) -> int:
    """How many values a number of that width takes."""
    return 3 if bits == 1.58 else 2 ** int(bits)


def size(n: int, bits: float) -> int:
    """Bytes that n packed numbers take."""
    if bits == 1.58:
        return -(-n // _TRITS)
    return -(-n // _EIGHT) * 3 if bits == 3 else -(-n * int(bits) // 8)


def pack(codes: Tensor, bits: float) -> Tensor:
    """codes (..., n), whole numbers from 0 to levels - 1 in any dtype -> (..., size(n, bits)) uint8."""
    if bits == 8:
        return codes.to(torch.uint8)
    n = codes.shape[-1]
    if bits == 3:
        words = pad_(codes.to(torch.int32), (0, -n % _EIGHT)).unflatten(-1, (-1, _EIGHT))
        word = (words << _steps(_EIGHT, 3, codes)).sum(-1, dtype=torch.int32)
        out: Tensor = ((word[..., None] >> _steps(3, 8, codes)) & 255).to(torch.uint8).flatten(-2)
        return out
    each = _TRITS if bits == 1.58 else 8 // int(bits)
    parts = pad_(codes.to(torch.uint8), (0, -n % each)).unflatten(-1, (-1, each))
    placed: Tensor = parts * _powers(codes) if bits == 1.58 else parts << _steps(each, int(bits), codes).to(torch.uint8)
    return placed.sum(-1, dtype=torch.uint8)


def unpack(data: Tensor, bits: float, n: int) -> Tensor:
    """The n numbers that :func:`pack` packed: data (..., size(n, bits)) uint8 -> (..., n) uint8."""
    if bits == 8:
        return data
    out: Tensor
    if bits == 3:
        word = (data.unflatten(-1, (-1, 3)).to(torch.int32) << _steps(3, 8, data)).sum(-1, dtype=torch.int32)
        out = ((word[..., None] >> _steps(_EIGHT, 3, data)) & 7).to(torch.uint8)
    elif bits == 1.58:
        out = data[..., None] // _powers(data) % 3
    else:
        out = (data[..., None] >> _steps(8 // int(bits), int(bits), data).to(torch.uint8)) & (levels(bits) - 1)
    return out.flatten(-2)[..., :n]


def pack_mask(mask: Tensor) -> Tensor:
    """mask (..., n) bool -> (..., n / 8) uint8."""
    return pack(mask, 1)


def unpack_mask(data: Tensor, n: int) -> Tensor:
    """The mask that :func:`pack_mask` packed, (..., n) bool."""
    return unpack(data, 1, n).bool()


def _steps(count: int, by: int, like: Tensor) -> Tensor:
    return torch.arange(0, count * by, by, device=like.device, dtype=torch.int32)


def _powers(like: Tensor) -> Tensor:
    return torch.tensor([1, 3, 9, 27, 81], device=like.device, dtype=torch.uint8)
