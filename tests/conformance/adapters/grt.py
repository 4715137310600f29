"""GRT: the gated patch embedding, or the folding of scenes and the tokens each frame keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import unfold

from foveate import Tokens
from foveate.inputs.grt import GRT
from foveate.parts.film import Film
from foveate.parts.gating import gate, turned_divergence
from foveate.parts.quota import share_out


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _gate(params, given) if "pixels" in given else _scenes(params, given)


def film_of(x: Tensor) -> tuple[Film, Tensor]:
    """x (F, P, D) as one row."""
    frames, places = x.shape[:2]
    at = torch.arange(frames * places)
    row = x.reshape(1, frames * places, -1)
    return Film(Tokens(row, grid=torch.stack([at // places, at * 0, at % places], -1)[None])), row


def _gate(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weight = given["weight"]
    patches = unfold(given["pixels"], weight.shape[-1], stride=weight.shape[-1]).mT  # (F, P, k)
    film, row = film_of(patches)
    threshold = float(params["threshold"]) if params.get("policy", "motion") == "motion" else -1.0
    gated = gate(film, row, threshold, params.get("metric", "l2"))
    embedded = row[0] @ weight.flatten(1).T + given["bias"]
    shape = patches.shape[:2]
    return {
        "embeddings": embedded[gated.source[0]].view(*shape, -1) + given["position"],
        "recomputed": gated.open.view(shape),
        "score": gated.motion.view(shape),
    }


def _scenes(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, changed = given["features"], given["recomputed"]
    film, row = film_of(x)
    frames, places = x.shape[:2]
    method = GRT(cut=float(params["cut_factor"]), fold=float(params["jsd_threshold"]))
    key = method.keys(film, changed.reshape(1, -1))
    said = film.means(row) @ given["lm_head"].T
    before = said[0, method.earlier(key)[0].clamp(min=0)]
    folded = method.folded(key, turned_divergence(said, before[None]))
    several = int(key.sum()) > 1
    left = (~folded if several else key)[0]
    ratio = float(left.sum()) / frames if several else 1.0
    given_ratio = params.get("keep_ratio")
    share = min(max(ratio if given_ratio is None else float(given_ratio), 0.0), 1.0)
    k = min(max(int(params["min_tokens"]), math.ceil(places * share), 1), places)
    score = method.score(film, row, given["score"].reshape(1, -1).float(), key & left)
    kept = share_out(score, film.frame, torch.ones(1, frames), frames * k)[0]
    return {
        "kept_frames": left.nonzero()[:, 0],
        "key_frames": key[0],
        "ratio": torch.tensor(ratio),
        "tokens": row[0, kept].view(frames, k, -1),
    }
