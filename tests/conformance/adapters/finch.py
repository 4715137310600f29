"""FINCH: the layers of a case are the rows of a batch; the keys that stay may be turned to consecutive positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.finch import Finch
from foveate.parts.rotary import turn
from foveate.parts.votes import crown


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, window = given["keys"], int(params["window_size"])
    method = Finch(
        keep=1 - float(params["compression_ratio"]),
        window=window,
        counts=bool(params["normalize_scores"]),
        chunk=params["chunk_length"],
        variant="code",
    )
    entries = Entries(keys, given["values"], given["queries"][:, :, -window:], keys.shape[-1] ** -0.5)
    out = method.reduce(entries)
    left = out(keys.flatten(0, 1))
    if params["rerotate_keys"]:
        left = turn(left, torch.arange(out.m) - out.keep, given["inv_freq"])
    return {
        "scores": crown(method.votes(entries), entries.n),
        "kept": out.keep.view(*keys.shape[:2], -1),
        "keys": left.view(*keys.shape[:2], out.m, -1),
    }
