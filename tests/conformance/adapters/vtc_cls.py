"""VTC-CLS: one image; rows of all blocks with the class token in column 0, the last block not counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Tokens
from foveate.inputs.vtc_cls import VTCCLS


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    rows = given["cls_attn"].mean(1)[None, :, 1:]  # (1, L, N)
    start = slice(int(params["start_layer"]), -1).indices(rows.shape[1])[0]
    method = VTCCLS(keep=int(params["token_num"]), start_layer=start)
    tokens = Tokens(given["features"], cls_layers=rows[:, :-1])
    out = method.reduce(tokens)
    return {"scores": method.score(tokens)[0], "kept": out.keep[0], "tokens": out(tokens.x)}
