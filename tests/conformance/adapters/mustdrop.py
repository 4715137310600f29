"""MustDrop: windows merged in the vision tower, or one filter inside the LLM; the code counts positions anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Reduction, Tokens
from foveate.encoder.mustdrop_merge import MustDropMerge
from foveate.layers.mustdrop import MustDrop


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _filter(params, given) if "attn_text" in given else _merge(params, given["x"])


def _merge(params: Mapping[str, Any], x: Tensor) -> dict[str, Tensor]:
    window = int(params["window"][0])
    method = MustDropMerge(threshold=float(params["threshold"]), window=window, variant="code")
    tokens = Tokens(x, prefix=1, size=torch.ones(x.shape[:2]))
    part, tile = method.reduce(tokens), method.tile(tokens)
    # the code's order: class token, merged windows by falling similarity, the rest
    similarity = method.similarity(tokens)
    rank = similarity.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    merged = part.size().gather(1, part.assign) > 1
    place = torch.full(x.shape[:2], len(tile)).add(torch.arange(x.shape[1]))
    place[:, 1:] = torch.where(merged[:, 1:], rank[:, tile], place[:, 1:])
    place[:, 0] = -1
    slots = place.gather(1, part.keep).argsort(-1)
    out = part.listed(part.keep.gather(1, slots))
    return {"tokens": out(x), "size": out.size()[..., None]}


def _filter(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    hidden, start, n = given["hidden"], int(params["sys_length"]), int(params["visual"])
    keys, length = given["key_set"], hidden.shape[1]
    method = MustDrop(key=max(1, len(keys)))
    rows = given["attn_text"][None, ..., start : start + n]
    important = method.important(rows, float(params["global_thr"]), float(params["individual_thr"]))
    protected = torch.zeros(1, n).index_fill(1, keys, 1.0)
    mask = important | method.keys(protected, n) if len(keys) else important
    part = Reduction.from_mask(mask)
    out = part.place(torch.arange(start, start + n), length)
    return {
        "important": important[0].nonzero()[:, 0],
        "kept": part.keep[0],
        "key_set": part.assign[0, keys],
        "sequence": out.keep[0],
        "hidden": out(hidden),
        "position_ids": torch.arange(out.m)[None],
    }
