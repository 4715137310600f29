"""Quicksviewer's cubes: the cut and the thumbnail, with the weights of the case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate.parts.cubes import cut, thumbnail


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = {name.removeprefix("w."): value for name, value in given.items() if name.startswith("w.")}
    cubes = cut(given["features"], weights, params["fpq"], params["temperature"])
    return {**cubes._asdict(), "thumbnail": thumbnail(given["features"], cubes, weights)}
