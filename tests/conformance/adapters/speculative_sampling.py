"""Speculative sampling: logits become probabilities; the uniforms are the case's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate.parts.verify import accept


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    verdict = accept(
        given["target_logits"].softmax(-1),
        given["draft_tokens"],
        given["uniform_accept"],
        given["uniform_resample"],
        given["draft_logits"].softmax(-1),
        params.get("assistant_ensemble_weight"),
    )
    assert verdict.probs is not None
    return {"n_accepted": verdict.accepted, "resample_probs": verdict.probs, "tokens": verdict.tokens}
