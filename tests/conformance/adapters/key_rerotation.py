"""StreamingLLM with keys turned to where they stand in the cache: the layers of a case are the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.streaming_llm import StreamingLLM
from foveate.parts.rotary import turn


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys = given["keys"]
    method = StreamingLLM(keep=1 - float(params["compression_ratio"]), sinks=int(params["n_sink"]))
    out = method.reduce(Entries(keys, given["values"]))
    by = torch.arange(out.m) - out.keep
    turned = turn(out(keys.flatten(0, 1)), by, given["inv_freq"])
    return {"kept": out.keep.view(*keys.shape[:2], -1), "keys": turned.view(*keys.shape[:2], out.m, -1)}
