"""RAPID: accepting against the enriched target, and retrieval of chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.parts.retrieve import retrieve
from foveate.parts.verify_enriched import accept_enriched


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    drafted = given["draft_tokens"]
    gamma = drafted.shape[1]
    verdict = accept_enriched(
        given["target_logits"],
        given["draft_logits"],
        drafted,
        given["uniform_accept"],
        given["uniform_resample"],
        float(params["speculative_margin"]),
        float(params["spec_alpha"]),
    )
    assert verdict.probs is not None
    # a text that was over with its last drafted token gets no token more
    over = given["done"] & (verdict.accepted == gamma)
    tokens = verdict.tokens.clone()
    tokens[over, gamma] = -1
    kept = retrieve(
        given["chunk_embeddings"],
        given["query_embedding"],
        int(params["num_to_retrieve"]),
        float(params["rag_threshold"]),
    )
    return {
        "n_accepted": verdict.accepted - over.long(),
        "resample_probs": verdict.probs.masked_fill(over[:, None], 0),
        "tokens": tokens,
        "kept_chunks": kept if len(kept) else torch.tensor([-1]),
    }
