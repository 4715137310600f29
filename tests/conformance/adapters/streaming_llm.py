"""StreamingLLM: the layers of a case are the rows of a batch; the code scores 1 what it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Entries
from foveate.cache.streaming_llm import StreamingLLM


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, sinks = given["keys"], int(params["n_sink"])
    out = StreamingLLM(keep=1 - float(params["compression_ratio"]), sinks=sinks).reduce(Entries(keys, given["values"]))
    scores = out.kept.float().view(keys.shape[:3])
    scores[..., :sinks] = 1  # also where the budget is smaller than the sinks
    return {"scores": scores, "kept": out.keep.view(*keys.shape[:2], -1)}
