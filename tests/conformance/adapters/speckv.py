"""SpecKV: what the code keeps it lists best first, in the order of torch's topk, and then the window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.speckv import SpecKV
from foveate.tokens import Entries


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    q, k, v = given["q"], given["k"], given["v"]
    g, n, d = k.shape[1:]
    w, cap = int(params["window_size"]), int(params["max_capacity_prompt"])
    method = SpecKV(
        keep=min(cap, n),
        window=w,
        over=str(params["reduction_type"]),
        smooth=str(params["pool_type"]),
        pool=int(params["kernel_size"]),
    )
    entries = Entries(k, v, queries=q[:, :, n - w :], scaling=d**-0.5)
    kept = method.reduce(entries).keep.view(1, g, -1)[..., :-w]
    wide = min(max(cap - w, int(params["prefill_vertical_size"])), n - w)
    listed = method.votes(entries).topk(wide, dim=-1).indices
    order = torch.cat([listed[..., : cap - w], torch.arange(n - w, n).expand(1, g, w)], -1)[..., None]
    return {
        "k_out": k.gather(2, order.expand(-1, -1, -1, d)),
        "v_out": v.gather(2, order.expand(-1, -1, -1, v.shape[3])),
        "vertical_indices": listed,
        "kept_sorted": kept,
    }
