"""VisPruner: each row is an image or a crop of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Tokens
from foveate.inputs.vispruner import VisPruner


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    method = VisPruner(keep=int(params["visual_token_num"]), important=float(params["important_ratio"]), step=8)
    tokens = Tokens(given["features"], cls_attention=given["cls_attn"])
    out = method.reduce(tokens)
    return {"mask": out.kept, "kept": out.keep, "tokens": out(tokens.x)}
