"""DiffRate: one block; the counts of the cases include the class token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Tokens
from foveate.encoder.diffrate import DiffRate


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x = given["x"] + given["attn_out"]
    prune = int(params["prune_kept"])
    merge = min(prune, int(params["merge_kept"]))
    method = DiffRate(prune=(prune - 1,), merge=(merge - 1,), blocks=(0,), variant="code")
    tokens = Tokens(x, prefix=1, cls_attention=given["cls_attn"][:, :, 0], size=given["size"][..., 0])
    out = method.reduce(tokens)
    y = out(x)
    lifted = out.expand(y)
    pruned = (out.assign < 0)[..., None]  # their column of the source matrix is empty, and the code reads its slot 0
    return {
        "tokens": y,
        "size": method.sizes(tokens)[..., None],
        "source": (out.to_dense() != 0).float(),
        "restored": lifted.where(~pruned, y[:, :1]),
    }
