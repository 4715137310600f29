"""AdaBlock-dLLM: blocks that end at delimiters, with no cache, a prefix cache or a dual cache."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from denoiser import cache_of, decode
from torch import Tensor

from foveate.diffusion.schedules.adablock import AdaBlock


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bar = float(params["delimiter_threshold"])
    never = 2.0  # no probability reaches it: blocks of fixed length
    schedule = AdaBlock(params["threshold"], tuple(params["delimiter_ids"]), never if math.isinf(bar) else bar)
    out = decode(params, given, schedule, cache=cache_of(params["function"]))
    return {
        "sequence": out.ids,
        "forwards_per_block": torch.tensor([b.forwards for b in out.report.blocks]),
        "block_lengths": torch.tensor([b.size for b in out.report.blocks]),
    }
