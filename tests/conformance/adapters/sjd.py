"""Speculative Jacobi decoding: one check of each window; the uniforms are the case's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate.generation.jacobi import check, check_greedy


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    guesses, drawn = given["draft_tokens"], given["new_tokens"]
    uniform = given["uniform_accept"].gather(2, guesses[..., None])[..., 0]
    step = check(guesses, given["draft_prob"], given["new_prob"], drawn, uniform, given["uniform_resample"])
    return {
        "n_matched": step.matched,
        "next_tokens": step.tokens,
        "next_scores": step.scores,
        "resample_prob": step.residual,
        "n_matched_greedy": check_greedy(guesses, drawn),
    }
