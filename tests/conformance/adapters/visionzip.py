"""VisionZip: the class token is column 0 and stays in front; foveate sees the patches only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from foveate import Tokens
from foveate.inputs.visionzip import VisionZip
from foveate.parts.signals import attention


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    d, c = int(params["dominant"]), int(params["contextual"])
    cls, x = given["features"][:, :1], given["features"][:, 1:]
    tokens = Tokens(x, cls_attention=given["cls_attn"][..., 1:], metric=given["metric"][:, 1:])
    method = VisionZip(keep=d + c, contextual=c, variant="code")
    zipped = method.zip(tokens)
    out = method.reduce(tokens).listed(torch.cat([zipped.dominant, zipped.contextual], 1))
    by_score = attention(tokens).gather(1, zipped.dominant).argsort(stable=True, dim=-1, descending=True)
    return {
        "tokens": torch.cat([cls, out(x)], 1),
        "dominant_idx": pad(zipped.dominant.gather(1, by_score) + 1, (1, 0)),
    }
