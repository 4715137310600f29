"""A draft head that says several future features at every position (FLASH, arXiv 2505.12728)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from .rotary import turn


def futures(x: Tensor, weights: Mapping[str, Tensor], heads: int, groups: int, k: int) -> Tensor:
    """k features of the future at each position. x (B, n, D) -> (B, n, k, D) float32.

    Causal attention in which every query head reads every one of the ``groups`` of keys and values, each with a softmax
    of its own, and the results are added up (as published; grouped-query attention would give each head one group);
    then a two-layer MLP. weights: ``{q,k,v,o}_proj_{weight,bias}``, ``ar_proj_{0,2}_{weight,bias}``.
    """
    w = {name: t.float() for name, t in weights.items()}
    b, n, _ = x.shape

    def split(name: str, count: int) -> Tensor:
        return linear(x.float(), w[f"{name}_weight"], w[f"{name}_bias"]).view(b, n, count, -1).transpose(1, 2)

    q, key, value = split("q_proj", heads), split("k_proj", groups), split("v_proj", groups)
    at = torch.arange(n, device=x.device)
    rates = 10000.0 ** -(torch.arange(0, q.shape[-1], 2, device=x.device) / q.shape[-1])
    q, key = turn(q, at, rates), turn(key, at, rates)
    logits = torch.einsum("bhqd,bgkd->bhgqk", q, key) * q.shape[-1] ** -0.5
    logits = logits.masked_fill(at[None] > at[:, None], -torch.inf)
    mixed = torch.einsum("bhgqk,bgkd->bqhd", logits.softmax(-1), value).reshape(b, n, -1)
    y = linear(mixed, w["o_proj_weight"], w["o_proj_bias"])
    y = linear(silu(linear(y, w["ar_proj_0_weight"], w["ar_proj_0_bias"])), w["ar_proj_2_weight"], w["ar_proj_2_bias"])
    return y.view(b, n, k, -1)


def staggered(pred: Tensor, fill: float = 0.0) -> Tensor:
    """Predictions by what they are of: pred (B, L, k, D) -> (B, L k, D).

    Row i (L + 1) + j is prediction i of position j, for j < L - i, and all other rows hold ``fill``.
    """
    b, length, k, d = pred.shape
    out = pred.new_full((b, length * k, d), fill)
    for i in range(min(k, length)):
        out[:, i * (length + 1) : i * (length + 1) + length - i] = pred[:, : length - i, i]
    return out
