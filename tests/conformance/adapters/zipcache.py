"""ZipCache: the probes are the recorded ones; scales and codes are read out of the packed store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Entries
from foveate.cache.zipcache import ZipCache
from foveate.stores.bits import unpack


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys = given["keys"][None]
    _, g, n, d = keys.shape
    low = int(float(params["unimportant_ratio"]) * n)
    method = ZipCache(
        keep=n - low,
        bits=int(params["bits_important"]),
        low_bits=int(params["bits_unimportant"]),
        variant="code",
    )
    entries = Entries(keys, given["values"][None], given["queries"][None], d**-0.5)
    saliency = method.saliency(entries, given["probe_ids"].long())
    store: Any = method.halves(entries, saliency)
    out = {"saliency": saliency[0], "unimportant": (~method.salient(saliency))[0].nonzero()[:, 1].view(g, low)}
    out["key_dequant"], out["value_dequant"] = (x[0] for x in store.read())
    (stretch,) = store.keys.stretches
    _, _, *found = stretch.code
    names = ("key_scale_imp", "key_min_imp", "", "key_scale_unimp", "key_min_unimp")
    out |= {name: x.flatten() for name, x in zip(names, found) if name}
    (stretch,) = store.values.stretches
    factor, codes = stretch.coder.state[0], stretch.code
    out["value_channel_scale"] = factor.flatten()
    for name, part, k in (("imp", codes[1:4], n - low), ("unimp", codes[4:7], low)):
        bits = method.bits if name == "imp" else method.low_bits
        out[f"value_codes_{name}"] = unpack(part[0], bits, g * d).view(k, g * d).long()
        out[f"value_scale_{name}"], out[f"value_min_{name}"] = part[1].flatten(), part[2].flatten()
    return out
