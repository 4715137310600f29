"""ActQKV: calls follow each other, layer by layer; one running bias serves them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from foveate.parts.probe import Bias, Shares, evenness, probe


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    layers, keys = int(params["n_layers"]), given["block_keys"]
    blocks = keys.shape[1]
    bias = Bias(int(params["history_limit"]))
    shares = Shares(layers, int(params["token_budget"]), int(params["warmup_samples"]))
    least, most = min(blocks, int(params["topk_min"])), min(blocks, int(params["topk_max"]))
    weights, scores, counts, chosen = [], [], [], []
    for call, queries in enumerate(given["queries"]):
        layer = call % layers
        weight = bias.weights(queries[None])
        score = cosine_similarity(probe(queries[None], weight), keys[layer], dim=-1)
        k = shares.take(layer, float(evenness(score)), least, most)
        order = score.argsort(dim=-1, stable=True, descending=True)
        chosen.append(torch.where(torch.arange(blocks) < k, order, -1))
        weights.append(weight[0])
        scores.append(score)
        counts.append(k)
    return {
        "token_weights": torch.stack(weights),
        "block_scores": torch.stack(scores),
        "n_selected": torch.tensor(counts),
        "selected": torch.stack(chosen),
    }
