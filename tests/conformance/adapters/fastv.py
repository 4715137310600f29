"""FastV: an image inside a prompt; the code lets row 0 decide for the whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Reduction, Tokens
from foveate.layers.fastv import FastV


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    hidden, start, n = given["hidden"], int(params["sys_length"]), int(params["image_token_length"])
    b, length = hidden.shape[:2]
    if "attention_rank" in params:
        m = int(params["attention_rank"])
        method = FastV(keep=m) if m else None
    else:
        left = 1 - float(params["fastv_r"])
        method = FastV(keep=left) if round(n * left) else None
    image = slice(start, start + n)
    if method is None:  # nothing of the image is to be left
        part = Reduction.from_mask(torch.zeros(1, n, dtype=torch.bool))
    else:
        part = method.reduce(Tokens(hidden[:1, image], last_attention=given["attn_last"][:1, :, -1, image]))
    out = part.place(torch.arange(start, start + n), length)
    return {
        "keep": out.keep[0],
        "hidden": Reduction.take(out.keep.expand(b, -1), length)(hidden),
        "position_ids": out.keep.expand(given["position_ids"].shape[0] if "position_ids" in given else b, -1),
        "scores": given["attn_last"][..., -1, image].mean(1),
    }
