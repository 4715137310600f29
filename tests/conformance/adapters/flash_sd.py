"""FLASH: the head that says several features at once, and its squeezed image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate.decode.flash_sd import squeezed
from foveate.parts.semi_autoregressive import futures, staggered


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    pred = futures(given["x"], given, int(params["heads"]), int(params["group_size"]), int(params["k"]))
    image = given["input_ids"][0] == int(params["image_token_id"])
    compressed = squeezed(
        given["img_hidden"][0], given["img_embeds"][0], image, given["A"], given["fc_W"], given["fc_b"]
    )
    return {"pred": pred, "rearranged": staggered(pred), "compressed": compressed[None]}
