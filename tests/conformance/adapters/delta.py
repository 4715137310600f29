"""DELTA: the pages that a selection layer picks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate.parts.pages import page_scores, pick_pages


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    score = page_scores(given["logits"].softmax(-1), int(params["page_size"]))
    picked = pick_pages(score, given["n_pages"], int(params["subset_pages"]), int(params["recent_pages"]))
    return {"page_scores": score, "selected_pages": picked}
