"""Video-XL: what every chunk of a sequence reads and sees, and what is left in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.parts.summary_windows import SummaryWindows


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    first, last = (None if params.get(k) in (None, -1) else int(params[k]) for k in ("skip_first", "skip_last"))
    plan = SummaryWindows(
        window=int(params["window"]),
        ratio=int(params["ratio"]),
        place=str(params["pos"]),
        sight=str(params["attn"]),
        see_earlier=bool(params["attend_prev"]),
        first=first,
        last=last,
    )
    out: dict[str, Tensor] = {}
    chunks = list(plan.read(int(given["n_tokens"])))
    for i, chunk in enumerate(chunks):
        parts = {"input": chunk.tokens, "memory": chunk.memory, "allowed": chunk.allowed, "positions": chunk.positions}
        out |= {f"{name}_{i}": value for name, value in parts.items()}
    return {**out, "steps": torch.tensor(len(chunks)), "final_memory": chunks[-1].after}
