"""FasterVLM: each row is an image or a crop of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Tokens
from foveate.inputs.fastervlm import FasterVLM


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    method = FasterVLM(keep=int(params["visual_token_num"]))
    tokens = Tokens(given["features"], cls_attention=given["cls_attn"])
    out = method.reduce(tokens)
    return {"mask": out.kept, "scores": method.score(tokens), "kept": out.keep, "tokens": out(tokens.x)}
