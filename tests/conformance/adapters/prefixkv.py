"""PrefixKV: sizes of the layers from one sample, the prompt's entries, and some steps of decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.prefixkv import PrefixKV
from foveate.parts.allocate_prefix import prefix_forget
from foveate.tokens import Entries


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    received = given["attn"].sum(2)  # (layers, H, n)
    layers, _, n = received.shape
    sinks = int(params["start_size"])
    forget = prefix_forget(received.mean(1), float(params["ratio"]), sinks)
    method = PrefixKV(shares=tuple(n - f for f in forget), sinks=sinks, distance=int(params["distance"]))
    cache = torch.zeros(1, 1, n, 1)
    out = {"forget": torch.tensor(forget)}
    for i in range(layers):
        kept = method.reduce(Entries(cache, cache, layer=i, layers=layers, received=received[i : i + 1])).keep[0]
        out[f"kept_layer{i}"] = kept
        for new in range(n, n + int(params["decode_steps"])):
            kept = torch.cat([kept, torch.tensor([new])])
            gone = method.dropped(len(kept), new + 1, 1 - forget[i] / n, n - forget[i])
            if gone is not None:
                kept = torch.cat([kept[:gone], kept[gone + 1 :]])
        out[f"decoded_layer{i}"] = kept
    return out
