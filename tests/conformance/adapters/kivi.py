"""KIVI: codes, scales and minima are read out of the packed store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.kivi import KIVI
from foveate.stores.bits import unpack
from foveate.stores.packed import Grid, in_heads


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    method = KIVI(
        bits=params["k_bits"],
        value_bits=params["v_bits"],
        group=int(params["group_size"]),
        recent=int(params["residual_length"]),
    )
    entries = Entries(given["keys"][None], given["values"][None])
    store: Any = method.pack(entries)
    out = {"n_full": torch.tensor([store.keys.recent.shape[2], store.values.recent.shape[2]])}
    for name, side in (("key", store.keys), ("value", store.values)):
        codes, scale, low = parts(side, entries.keys.shape)
        out |= {f"{name}_codes": codes[0], f"{name}_dequant": side.read()[0, :, : side.coded]}
        out |= {f"{name}_scale": scale[0], f"{name}_min": low[0]}
    return out


def parts(side: Any, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (B, g, t, d), scale and minimum (B, g, blocks, groups of a head) of a coded side."""
    b, g, _, d = shape
    if not side.stretches:
        channels = side.coder.tile.channels
        none = torch.zeros(b, g, 0, d // channels)
        return torch.zeros(b, g, 0, d, dtype=torch.long), none, none
    (stretch,) = side.stretches
    coder = stretch.coder
    assert isinstance(coder, Grid)
    cut = coder.tile.shape(b, stretch.t, g * d)
    data, scale, low = stretch.code
    codes = unpack(data, coder.bits, cut[2] * cut[3] * cut[4]).view(cut).long()
    return in_heads(coder.tile.join(codes, g * d), g), in_heads(scale, g), in_heads(low, g)
