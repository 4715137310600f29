"""ToMe: one matching ("bipartite", "kth", "random"), or whole attention blocks around it ("blocks")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from foveate import Reduction, Tokens
from foveate.encoder.tome import ToMe
from foveate.parts.merge import Match, bipartite, split


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _blocks(params, given) if params["variant"] == "blocks" else _matching(params, given)


def _matching(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, metric = given["x"], given["metric"]
    size = given["size"][..., 0] if "size" in given else torch.ones(x.shape[:2])
    prefix = 2 * bool(params.get("distill_token")) or int(bool(params.get("class_token")))
    tokens = Tokens(x, prefix=prefix, metric=metric, size=size)
    match = _match(params, given, tokens)
    slots = Reduction.merge(match.into, size).listed(match.order)
    listing = match.order
    if params.get("distill_token") and slots.m < slots.n:  # the code moves it up beside the first survivor
        head, rest = match.order[:, :1], _without(match.order[:, 1:], 1)
        listing = torch.cat([head, torch.ones_like(head), rest], 1)
    out = slots.listed(listing)
    merged = out(x)
    lifted = slots.expand(merged)  # reads the slots as they were before that move, as the code does
    inside = match.into[0] >= 0  # a remainder that was dropped does not come back
    return {
        "merged": merged,
        "size": out.size(size)[..., None],
        "source": (out.to_dense() != 0).float(),
        "mean": Reduction.merge(match.into).listed(listing)(x),
        "unmerged": lifted[:, inside],
    }


def _match(params: Mapping[str, Any], given: Mapping[str, Tensor], tokens: Tokens) -> Match:
    if params["variant"] == "kth":
        k = int(params["k"])
        return (ToMe(stride=k) if k > 1 else ToMe(r=0)).match(tokens)
    r = max(0, int(params["r"]))
    drawn = [v for k, v in given.items() if k not in ("x", "metric", "size")]
    if drawn and r:  # the random form, with its recorded draw: a permutation, or numbers to sort
        order = drawn[0].reshape(tokens.x.shape[:2])
        order = order.argsort(-1) if order.is_floating_point() else order
        return split(tokens.metric, order[:, :r], order[:, r:])
    if params.get("distill_token") and not params.get("class_token"):  # only the second token is protected
        return bipartite(tokens.metric, min(r, (tokens.n - 1) // 2), prefix=2, first=1)
    return ToMe(r=r).match(tokens)


def _without(order: Tensor, position: int) -> Tensor:
    return order[order != position].view(order.shape[0], -1)


def _blocks(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pre-norm blocks: attention, merging, and a second norm in place of the MLP."""
    x, heads, layers = given["x"], params["num_heads"], params["layers"]
    methods = _schedule(params, layers)
    size: Tensor | None = None
    whole = Reduction.identity(*x.shape[:2])
    for i, method in enumerate(methods):
        y = layer_norm(x, x.shape[-1:], eps=1e-6)
        qkv = y @ given[f"l{i}_qkv_weight"].T + given[f"l{i}_qkv_bias"]
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, n, d)
        logits = q @ k.mT * q.shape[-1] ** -0.5
        if method.proportional and size is not None:
            logits = logits + size.log()[:, None, None]
        mixed = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + mixed @ given[f"l{i}_proj_weight"].T + given[f"l{i}_proj_bias"]
        size = torch.ones(x.shape[:2]) if size is None else size
        prefix = 2 * bool(params.get("distill_token")) or int(bool(params.get("class_token")))
        tokens = Tokens(x, prefix=prefix, metric=k.mean(1), size=size, layer=i, layers=layers)
        step = method.reduce(tokens)
        x, size, whole = step(x), step.size(size), whole.then(step)
        x = x + layer_norm(x, x.shape[-1:], eps=1e-6)
    rates = torch.tensor([m.rate(i, layers) for i, m in enumerate(methods)])
    return {"tokens": x, "size": size[..., None], "source": (whole.to_dense() != 0).float(), "r": rates}


def _schedule(params: Mapping[str, Any], layers: int) -> list[ToMe]:
    """The method of each block: r alone, (r, inflect), or one r a block."""
    r, inflect = params["r"], params.get("inflect", 0.0)
    common = {"variant": "code", "proportional": bool(params.get("prop_attn", True))}
    if isinstance(r, list) and len(r) == 2 and isinstance(r[1], float):
        r, inflect = r
    if isinstance(r, list):
        return [ToMe(r=int(n), **common) for n in (r + [0] * layers)[:layers]]
    return [ToMe(r=int(r), inflect=float(inflect), **common)] * layers
