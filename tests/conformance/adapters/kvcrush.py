"""KVCrush on blocks: which of the blocks about to be evicted are saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.parts.signatures import anchor_bits, better_half, hamming, spaced


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    size, blocks = int(params["block_size"]), int(params["n_blocks"])
    marks = better_half(given["scores"])
    bits = marks.view(1, blocks, size)
    anchor = anchor_bits(bits, str(params["anchor_point_mode"]).lower())
    distance = hamming(bits, anchor)
    candidate = torch.zeros(1, blocks, dtype=torch.bool)
    candidate[0, given["evicted_blocks"]] = True
    r = min(int(params["budget_blocks"]), int(candidate.sum()))
    return {
        "indicators": marks.long(),
        "anchor": anchor[0].long(),
        "distance": distance[0],
        "retained_blocks": spaced(distance, candidate, r)[0],
    }
