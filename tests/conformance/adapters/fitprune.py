"""FitPrune: one layer of one sample, to delete a number of tokens or to fit how many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Reduction, Tokens
from foveate.layers.fitprune import FitPrune, light


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    attn, start, n = given["attn"], int(params["system_tokens"]), int(params["visual"])
    length = attn.shape[-1]
    where, asks = torch.arange(start, start + n), torch.arange(start + n, length)
    heads = {
        "q": attn.log().clamp(min=-1e4),
        "k": torch.eye(length)[None, None],
        "where": where[None],
        "asks": asks[None],
    }
    left = n - int(params.get("delete", 0))
    tokens = Tokens(torch.zeros(1, n, 1), layer=1, layers=2, **heads)
    method = FitPrune(layers=(1,), keeps=(max(left, 1) / n,))
    cross, own = method.sums(tokens)
    if params.get("stage") == "fit":
        cross = cross / len(asks)
        gone = [light(score, score.sum(-1, keepdim=True), float(params["alpha"]))[0] for score in (cross, own)]
        both = (gone[0] & gone[1]).nonzero()[:, 0]
        return {"delete": both, "num_cross": gone[0].sum(), "num_self": gone[1].sum()}
    part = method.reduce(tokens) if left else Reduction.from_mask(torch.zeros(1, n, dtype=torch.bool))
    return {"cross": cross[0], "self": own[0], "keep": part.place(where, length).kept[0]}
