"""SparseVLM: one stage of one prompt; merged tokens are listed after the kept ones, and v1 counts positions anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Reduction
from foveate.layers.sparsevlm import SparseVLM
from foveate.parts.rotary import rotary_bias
from foveate.parts.select import top


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start, n, t = int(params["sys_length"]), int(params["visual"]), int(params["text"])
    hidden, embeds = given["hidden"], given["embeds"]
    where, asks = torch.arange(start, start + n)[None], torch.arange(start + n, start + n + t)[None]
    image, plus = slice(start, start + n), params["variant"] == "plus"
    method = SparseVLM(
        variant=params["variant"], heads=int(params.get("heads_selected") or 14), base=float(params["rope_base"] or 1e4)
    )
    raters = method.raters(embeds[:, image], embeds[:, start + n : start + n + t])
    bias = rotary_bias(asks, where, int(params["head_dim"]), method.base) if plus else None
    score = method.score(given["attn_text"][None, :, :, image], raters, bias)
    kept = min(int(params["keep"]), n - 1)
    if plus:
        part = Reduction.take(top(score, kept), n)
        mask = part.kept
    else:
        match = method.recycled(hidden[:, image], score, kept, method.clusters(n, kept)[1], given.get("noise"))
        part = Reduction.merge(match.into).listed(match.order)
        mask = torch.zeros(1, n, dtype=torch.bool).scatter(1, match.order[:, :kept], True)
    tail = torch.arange(start + n, hidden.shape[1])[None]
    positions = torch.cat([torch.arange(start)[None], where.gather(1, part.keep), tail], 1)
    return {
        "raters": raters[0].nonzero()[:, 0],
        "score": score,
        "mask": mask,
        "hidden": torch.cat([hidden[:, :start], part(hidden[:, image]), hidden[:, start + n :]], 1),
        "position_ids": positions if plus else torch.arange(positions.shape[1])[None],
        "num_visual": torch.tensor(part.m),
    }
