"""VidKV: codes and scales are read out of the packed store, channels before groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.vidkv import VidKV
from foveate.stores.bits import unpack
from foveate.stores.packed import Grid, Signs, Tile, in_heads
from foveate.stores.spectral import Spectral
from foveate.stores.stream import Code, Stream


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    nbits, group = params["nbits"], int(params["group_size"])
    a, b = nbits if isinstance(nbits, (list, tuple)) else (nbits, nbits)
    share = float(params.get("stp_ratio") or 0)
    method = VidKV(key_bits=a, bits=b if b == 1.58 else int(b), group=group, protect=share, variant="code")
    keys, values = given["keys"][None], given["values"][None]
    g, d = keys.shape[1], keys.shape[3]
    n = keys.shape[2] // group * group
    out = {"n_quantised": torch.tensor([n])}
    coder: Any = method.key_coder(keys)
    side = Stream(keys, coder, step=group)
    out["key_dequant"] = side.read()[0, :, :n]
    if side.stretches and isinstance(coder, Spectral):
        code = side.stretches[0].code
        k = coder.hard.shape[1]
        out["hard_channels"] = coder.hard[0].long()
        grid, signs = coder.coders(torch.float32)
        if k:
            out |= parts("hard", grid, code[:3], (1, g, n, k))
        if k < d:
            out |= parts("easy", signs, code[3 if k else 0 :], (1, g, n, 2 * (d - k)))
    elif side.stretches:
        out |= parts("key", coder, side.stretches[0].code, (1, g, n, d))
    first = None
    if share and n:
        mask = protected(method, params, given, n)
        out["protected"] = out["low_tokens"] = mask[0].nonzero()[:, 0]
        first = method.guarded(values[:, :, :n], mask)
    coder = method.coder(method.bits)
    side = Stream(values, coder, step=group, first=first)
    out["value_dequant"] = side.read()[0, :, :n]
    if side.stretches and first is None:
        out |= parts("value", coder, side.stretches[0].code, (1, g, n, d))
    return out


def protected(method: VidKV, params: Mapping[str, Any], given: Mapping[str, Tensor], n: int) -> Tensor:
    """(1, n) bool: entries of patches that agree with the text, behind the system's tokens."""
    more = {name: x for name, x in given.items() if name not in ("keys", "values")}
    text = next(x for name, x in more.items() if "text" in name).float()
    patches = next(x for name, x in more.items() if "text" not in name).float()
    chosen = method.protected((patches @ text.mT).mean(-1)[None])
    start = int(params["system_tokens"])
    out = torch.zeros(1, max(n, start + chosen.shape[1]), dtype=torch.bool)
    out[:, start : start + chosen.shape[1]] = chosen
    return out[:, :n]


def parts(name: str, coder: Grid | Signs, code: Code, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Codes (g, n, c), and scales and minima (g, c, groups)."""
    b, g, t, d = shape
    tile: Tile = coder.tile
    cut = tile.shape(b, t, g * d)
    codes = unpack(code[0], coder.bits, cut[2] * cut[3] * cut[4]).view(cut).long()
    out = {f"{name}_codes": in_heads(tile.join(codes, g * d), g)[0]}
    for what, x in zip(("scale", "min"), code[1:]):
        out[f"{name}_{what}"] = in_heads(x, g)[0].mT
    return out
