"""Scissorhands: a whole prompt read with keys dropped on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.parts.persistence import replay


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    q, k, v = (given[name] for name in ("queries", "keys", "values"))
    heads, n = q.shape[:2]
    start = int(params["start_compress_length"])
    out = replay(q @ k.mT, start, int(params["history_window"]), int(params["recent_window"]))
    seen = torch.arange(start, n) + 1
    return {
        "attn": out.attention,
        "output": (out.attention @ v).transpose(0, 1).flatten(1),
        "keep_ratio": out.kept[:, start:].sum((0, 2)) / (heads * seen),
        "lru_keep_ratio": out.pivotal[:, start:].sum((0, 2)) / (heads * seen),
    }
