"""VFlowOpt: the importance map, pruning with recycling, or the stages inside the LLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Reduction, Tokens
from foveate.inputs.vflowopt import VFlowOpt
from foveate.layers.vflowopt_stages import VFlowOptStages
from foveate.parts.context import global_rows
from foveate.parts.entropy import grey_entropy


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if "attn" in given:
        part, entropy = global_rows(given["attn"], float(params["t"])), grey_entropy(given["patches"])
        score = VFlowOpt(alpha=float(params["alpha_v"])).importance(part, entropy.view(part.shape))
        return {"entropy": entropy, "attn_part": part, "importance": score}
    return _recycle(params, given) if "features" in given else _stages(params, given)


def _recycle(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, score = given["features"][None], given["importance"]
    base, wide = int(params["base_side"]), int(params["local_width"])
    at = torch.arange(x.shape[1])
    rest = at - base * base
    inside = rest < 0
    view, row, col = (
        (~inside).long(),
        torch.where(inside, at // base, rest // wide),
        torch.where(inside, at % base, rest % wide),
    )
    method = VFlowOpt(keep=float(params["keep_ratio"]), cell=int(params["grid"]), variant="code")
    out = method.recycled(score[None], method.cells(torch.stack([view, row, col], -1)[None]))
    return {"tokens": out(x)[0], "kept": out.keep[0], "importance": score[out.keep[0]]}


def _stages(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    hidden, score, start = given["hidden"], given["importance"][None], int(params["system"])
    n, answer, positions = int(params["visual"]), {}, torch.arange(hidden.shape[1])
    for i, ratio in enumerate(params["keep_ratios"]):
        m = n - round(n * (1 - ratio))  # the code's shares are of what the stage before left
        tokens = Tokens(hidden[:, start : start + n], layer=1, layers=2, received_attention=score)
        part = VFlowOptStages(layers=(1,), keeps=(m / n,)).reduce(tokens) if m else _none(n)
        out = part.place(torch.arange(start, start + n), hidden.shape[1])
        hidden, positions, score, n = out(hidden), positions[out.keep[0]], part.gather(score, 1), m
        answer |= {f"hidden{i}": hidden, f"position_ids{i}": positions[None]}
    return answer


def _none(n: int) -> Reduction:
    return Reduction.from_mask(torch.zeros(1, n, dtype=torch.bool))
