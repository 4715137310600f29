"""Video-XL-2: frame groups with timestamps, a cache of dense and averaged chunks, and the mask of the prefill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.videoxl2 import VideoXL2
from foveate.parts.bilevel import block_mask
from foveate.tokens import Entries


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, values = given["keys"], given["values"]
    layers, g, n, d = keys.shape
    start, end, size = (int(params[k]) for k in ("visual_start", "visual_end", "chunk_groups"))
    begins, opens = given["time_start"], given["time_end"]
    at = torch.arange(int(params["n_tokens"]))
    group = torch.searchsorted(begins, at, right=True) - 1  # -1 in the system part
    stamp = (group >= 0) & (at < opens[group.clamp(min=0)]) & (at < end)
    visual = (group >= 0) & ~stamp & (at < end)
    part = torch.where(visual, group // size, -1)[:n].expand(layers, n)
    chosen = sorted({int(int(u) // (size / 2)) for u in params["selected_units"]})
    method = VideoXL2(pool=int(params["pool"]), dense=tuple(chosen), variant="code")
    entries = Entries(keys, values)
    out = method.cut(part, method.chosen(part, entries), entries)
    block = group[start:end].clamp(min=0) // int(params["prefill_block_groups"])
    block = block.clamp(max=int(params.get("prefill_blocks", len(at))) - 1)
    mask = block_mask(len(at), start, end, block, stamp, int(params["prev_blocks"]))
    return {
        "mixed_keys": out(keys.flatten(0, 1)).view(layers, g, out.m, d),
        "mixed_values": out(values.flatten(0, 1)).view(layers, g, out.m, d),
        "prefill_mask": mask,
        "mask_ratio": (mask.sum() / (len(at) * (len(at) + 1) / 2))[None].float(),
    }
