"""ViSpec: the compressed input of its draft head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate.decode.vispec import compressed


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    image = given["image_mask"][0, 1:]
    hidden, where = compressed(given["hidden_states"][0], given["inputs_embeds"][0], image, given["q"], given)
    return {"draft_hidden": hidden[None], "position_ids": where[None]}
