"""Top-H: the authors' rule, and transformers' own on logits that are divided by the temperature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate.sampling import TopH


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    alpha, temperature, logits = params["alpha"], params.get("temperature", 1.0), given["logits"]
    return {
        "keep": TopH(alpha, params["top_n"], temperature, variant="code").kept(logits),
        "keep_transformers": TopH(alpha, 100, temperature, variant="transformers").kept(logits),
    }
