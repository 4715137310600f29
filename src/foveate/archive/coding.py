"""Remembered tokens as the store keeps them: as they are, or in a few bits with the cache's own quantiser.

Each token is coded by itself, 32 channels at a time, so a clip of any length loses the same. Times, places and sizes
stay exact, and so does the vector that a search reads.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError
from ..stores.packed import Grid, Tile

#: Widths that tokens may be kept at, and the fields that are.
BITS, FIELDS = (8, 4), ("x", "deep")
_GROUP = 32  # channels that share a scale
_PARTS = ("codes", "scale", "low", "like")


def coded(tensors: Mapping[str, Tensor], bits: int | None) -> dict[str, Tensor]:
    """Plain tensors -> what is stored: ``x`` (m, D) and ``deep`` (L, m, D) as codes with scales, the rest as it is."""
    out = dict(tensors)
    if bits is None:
        return out
    for name in FIELDS:
        x = out[name]
        if not x.numel():
            continue
        del out[name]
        codes, scale, low = _coder(bits).encode(x.reshape(1, 1, -1, x.shape[-1]))
        like = x.new_empty((0, *x.shape))  # holds no number, only dtype and shape
        out |= {f"{name}.{part}": t for part, t in zip(_PARTS, (codes, scale, low, like))}
    return out


def decoded(stored: Mapping[str, Tensor], bits: int | None) -> dict[str, Tensor]:
    """The reverse of :func:`coded`, in the dtype that the tokens had.

    Raises:
        InputError: the parts of a coded tensor do not fit each other.
    """
    out = dict(stored)
    for name in FIELDS:
        if f"{name}.codes" not in out:
            continue
        parts = [out.pop(f"{name}.{part}", None) for part in _PARTS]
        if bits is None or any(p is None for p in parts):
            raise InputError(f"the coded tokens {name!r} are not whole")
        codes, scale, low, like = (p for p in parts if p is not None)
        shape = like.shape[1:]
        flat = torch.Size((1, 1, shape[:-1].numel(), shape[-1]))
        try:
            out[name] = _coder(bits).decode((codes, scale, low), flat).view(shape).to(like.dtype)
        except RuntimeError as error:
            raise InputError(f"the coded tokens {name!r} do not fit each other: {error}") from error
    return out


def _coder(bits: int) -> Grid:
    """Scales of 16 bits: beside a few codes, wider ones would take as much as these."""
    return Grid(bits, Tile(1, _GROUP), scales=torch.float16)
