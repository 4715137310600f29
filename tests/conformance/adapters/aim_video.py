"""AIM on video: the same merging and pruning, with the masks of the pruning applied here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from adapters.aim import prune
from foveate.inputs.aim import AIM
from foveate.layers.aim_prune import AIMPrune


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if "logits" not in given:
        x = given["features"]
        return {"tokens": AIM(variant="code").merged(x, [x.shape[1] // d for d in params["divisors"]])(x)}
    method = AIMPrune(
        temperature=float(params["temperature"]), steps=int(params["iters"]), damping=float(params["damping"])
    )
    scores, masks = prune(method, given["logits"], params["retain"], int(params["start"]), int(params["end"]))
    out = {f"score_{i}": score for i, score in enumerate(scores)}
    return {**out, **{f"mask_{i}": mask for i, mask in enumerate(masks)}}
