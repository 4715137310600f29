"""AIM: the merging of frames, or pruning in a few layers; the code hides what it prunes and lets it walk on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.inputs.aim import AIM
from foveate.layers.aim_prune import AIMPrune
from foveate.parts.select import top

PARTS = {2: "half", 4: "quarter", 8: "eighth", 16: "sixteenth"}


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if "logits" not in given:
        return _merge(params, given["x"])
    rates = params["retain_rate"]
    start, n = int(params["sys_length"]), int(params["visual"])
    method = AIMPrune(temperature=params["tau_imp"], steps=int(params["iters"]), damping=float(params["d"]))
    importance, mask = prune(method, given["logits"], rates, start, start + n)
    return {"importance": importance, "mask": mask}


def prune(method: AIMPrune, logits: Tensor, rates: Sequence[float], start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Layer after layer, logits (layers, H, L, L), of which the tokens start:stop are visual -> (layers, L) twice."""
    length, visible = logits.shape[-1], torch.ones(logits.shape[-1], dtype=torch.bool)
    eye, scores, masks = torch.eye(length)[None, None], [], []
    for layer, rate in zip(logits, rates):
        hidden = layer.masked_fill(~visible, -1e4).clamp(min=-1e4)
        score = method.importance(hidden[None], eye)[0]
        rank = torch.where(visible, score, -1.0)[None, start:stop]
        kept = torch.zeros(stop - start, dtype=torch.bool)
        text = length - (stop - start)  # counts towards the budget and fills its part of it first
        kept[top(rank, int((stop - start) * rate + text) - text)[0]] = True
        visible = visible.clone()
        visible[start:stop] &= kept
        scores.append(score)
        masks.append(visible)
    return torch.stack(scores), torch.stack(masks)


def _merge(params: Mapping[str, Any], x: Tensor) -> dict[str, Tensor]:
    n, out, method = x.shape[1], {}, AIM(variant="code")
    rates: list[int] = []
    for i, given in enumerate(params["r"]):
        part = int(str(given).rpartition("/")[2]) if "/" in str(given) else 0
        rates.append(n // part if part else int(given))
        out[PARTS.get(part or 2 ** (i + 1), str(i))] = method.merged(x, rates)(x)
    return out
