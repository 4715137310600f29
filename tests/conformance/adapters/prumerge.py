"""PruMerge: the class token's attention as one wide head; tokens stand in the order chosen, the summary last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.prumerge import PruMerge


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, key = given["features"], given["key"]
    row = (given["query_cls"] @ key.mT * key.shape[-1] ** -0.5).softmax(-1)[:, 0, 1:]
    tokens = Tokens(x, wide_attention=row, keys=key[:, 1:])
    method = PruMerge(
        keep=None if params["if_adaptive"] else float(params["reduction_ratio"]),
        plus=params["variant"] == "plus",
        neighbours=int(params["neighbours"]),
        variant="code",
    )
    kept = method.choose(tokens)
    out = [method.shares(tokens, b, chosen) @ x[b] for b, chosen in enumerate(kept)]
    return {"tokens": torch.stack(out), "kept": torch.stack(kept)}
