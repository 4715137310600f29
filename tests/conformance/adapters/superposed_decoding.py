"""Superposed decoding on a recurrent stand-in for the model, which reads mixtures of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.sampling import NGrams
from foveate.sampling.superposed import Options
from foveate.sampling.superposed import run as search


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    table, carry, head = given["E"], given["R"], given["U"]
    state = torch.zeros(len(given["prompts"]), table.shape[1])
    bias = torch.zeros(head.shape[1])
    bias[params["eos_id"]] = given["eos_bias"]

    def read(embedding: Tensor) -> Tensor:
        nonlocal state
        state = torch.tanh(state @ carry + embedding)
        return state @ head + bias

    def first(tokens: Tensor) -> Tensor:
        for column in tokens.T:
            logits = read(table[column])
        return logits

    ngrams = None
    if params.get("smoothing") is not None:
        corpus = [given["ngram_corpus"].tolist()]
        ngrams = NGrams(corpus, params["interpolation_lengths"], params["interpolation_weights"])
    options = Options(
        params["n_drafts"],
        params["n_token_sample"],
        params["alpha"],
        params["temperature"],
        params["penalty"],
        ngrams,
    )
    out = search(first, lambda w: read(w @ table), given["prompts"], params["max_gen_len"], params["eos_id"], options)
    shortest = int((given["prompts"] >= 0).sum(-1).min())
    return {
        "alive_sequences": out.ids,
        "alive_ppl": out.perplexity(shortest),
        "alive_scores": out.scores,
        "finished_scores": out.finished_scores,
        "superposition": out.fed,
        "n_forward": torch.tensor(out.forwards),
        "finished_sequences": out.finished,
    }
