"""KVzip: each pass of the repetition rates a stretch; layers are the rows of a batch, or heads of one where they share.

The amount to drop is a share of the entries of all heads together, rounded down, as a case states it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.kvzip import KVzip
from foveate.parts.replay import recalled
from foveate.parts.value_norms import projected_norms


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, sinks = given["keys"], int(params["n_sink"])
    scores = torch.zeros(keys.shape[:3])
    scale = keys.shape[-1] ** -0.5
    plus, column = bool(params.get("kvzip_plus_normalization")), None
    if plus:
        output = given["Wo"].mT.unflatten(1, (given["rq0"].shape[1], -1))
        column = projected_norms(given["values"], output, 2)
    for i, (start, stop) in enumerate(given["chunk_bounds"].tolist()):
        first = min(sinks, start)
        near = torch.cat([keys[:, :, :first], keys[:, :, start:stop]], 2)
        rows = _hidden_scale(given, i) if plus else None
        part = None if column is None else column[..., start:stop]
        scores[..., start:stop] = recalled(given[f"rq{i}"], given[f"rk{i}"], near, scale, first, rows, part)
    ratio, n, method = float(params["compression_ratio"]), keys.shape[2], KVzip(sinks=sinks)
    if params["layerwise"]:
        drop = int(keys.shape[1] * n * ratio)
        mask = method.kept(Entries(keys, keys, recalled=scores), drop)
    else:
        drop = int(keys.shape[0] * keys.shape[1] * n * ratio)
        side = keys.flatten(0, 1)[None]
        mask = method.kept(Entries(side, side, recalled=scores.flatten(0, 1)[None]), drop).view(keys.shape[:3])
    pinned = scores.clone()
    pinned[..., :sinks] = scores.max() + 1  # the constant the code pins with
    return {"scores": pinned, "keep_mask": mask}


def _hidden_scale(given: Mapping[str, Tensor], i: int) -> Tensor:
    """One by the norm of each hidden state of a pass, (layer, token): the pass's one input that is no query or key."""
    (hidden,) = (v for name, v in given.items() if name.endswith(str(i)) and name not in (f"rq{i}", f"rk{i}"))
    return 1 / (hidden.norm(dim=-1) if hidden.dim() == 3 else hidden)
