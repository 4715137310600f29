"""CDPruner: every row is an image or a crop, all of them asked the same text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Tokens
from foveate.inputs.cdpruner import CDPruner


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, text = given["features"], given["text_embeds"]
    tokens = Tokens(x, image_embeds=given["image_embeds"], text_embeds=text.expand(x.shape[0], *text.shape))
    method = CDPruner(keep=int(params["visual_token_num"]), variant="code")
    out = method.reduce(tokens)
    return {
        "mask": out.kept,
        "order": method.pick(tokens),
        "kept": out.keep,
        "tokens": out(x),
        "kernel": method.kernel(tokens),
    }
