"""GTP-ViT: one propagation, from given attention maps; the code lists tokens by falling score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.encoder.gtp_vit import GTPViT

KINDS = {"CLSAttn": "class", "IMGAttn": "received", "DiagAttn": "own", "MixedAttn": "mixed", "CosSim": "cosine"}


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, r, p = given["x"], int(params["num_prop"]), int(bool(params["class_token"]))
    method = GTPViT(
        r=r,
        alpha=float(params["alpha"]),
        graph=params["graph_type"].lower(),
        neighbours=int(params["num_neighbours"]) + (not p),  # the code counts with the class token
        score=_score(params["selection"]),
        variant="code",
    )
    n, side = x.shape[1], int(params["side"])
    at = torch.arange(n) - p
    grid = torch.stack([at * 0, at // side, at % side], -1).expand(x.shape[0], -1, -1)
    tokens = Tokens(x, prefix=p, grid=grid)
    scores, graph = method.rated([(0, given["attn"])], p), method.weights(tokens)
    out = method.propagated(tokens, scores)
    rank = scores.argsort(dim=-1, descending=True)  # the listing; as in the code, ties fall where torch puts them
    kept, gone = rank[:, : rank.shape[1] - r] + p, rank[:, rank.shape[1] - r :] + p
    slot = kept.argsort(-1).argsort(-1) + p  # of each kept token, where the map holds it
    slot = torch.cat([torch.arange(p).expand(len(slot), -1), slot], 1)
    rows = torch.arange(len(x))[:, None]
    after = graph[rows[..., None], kept[..., None] - p, kept[:, None] - p]
    answer = {"index_kept": kept, "index_prop": gone, "graph": graph, "graph_after": after}
    answer["tokens"] = out(x)[rows, slot]
    if "token_scales" in given:
        answer["token_scales"] = out(given["token_scales"][..., None])[..., 0][rows, slot]
    return answer


def _score(name: str) -> str:
    if name == "SumAttnMax":
        return "sum_max"
    return f"{KINDS[name.removesuffix('Max').removesuffix('Mean')]}_{'max' if name.endswith('Max') else 'mean'}"
