"""TRIM: a norm and a projection lead into the space of the text; the mean of the dropped tokens is listed last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from foveate import Tokens
from foveate.inputs.trim import TRIM


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, k = given["features"], float(params["k"])
    patches = layer_norm(x, x.shape[-1:], given["ln_weight"], given["ln_bias"], eps=1e-5) @ given["proj"].T
    method = TRIM(keep=None if k < 0 else int(x.shape[1] * k) + 1, variant="code")
    tokens = Tokens(x, image_embeds=patches, text_embeds=given["text"][:, None])
    out = method.reduce(tokens)
    alone = method.score(tokens).argmin(-1, keepdim=True)  # where a single token stands for itself
    mean = out.size().argmax(-1, keepdim=True) if out.m < out.n else alone
    at = torch.arange(out.m).expand(out.b, -1)
    order = torch.cat([out.keep[at != mean].view(out.b, -1), out.keep.gather(1, mean)], 1)
    return {"tokens": out.listed(order)(x)}
