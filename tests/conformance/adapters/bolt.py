"""BOLT: the scores are given; power -1 leaves them as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate.media.bolt import BOLT


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    power = float(params["power"])
    method = BOLT(power=1.0 if power == -1 else power, variant="code")
    return {"indices": method.pick(given["score"][None], int(params["n"]))[0]}
