"""Text that reads uncompressed ("slow") visual tokens beside the compressed ("fast") ones of the sequence.

The hybrid layers of "Slow-Fast Architecture for Video Multi-Modal Large Language Models" (Shi et al., 2025,
https://arxiv.org/abs/2504.01328): text tokens use the queries of their self-attention a second time, on keys and values
projected from the slow tokens, and a gate made from their own state decides how much of it they take.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention


class SlowWeights(NamedTuple):
    """What a hybrid layer has learnt.

    Attributes:
        kv, kv_bias: (g 2 d, D) and (g 2 d,), to keys and values of g heads, listed head by head, each key then value.
        gate, gate_bias: (1, D) and (1,).
        warm_up: (1,), or None; its tanh scales the gate.
        squash: whether the gate passes through tanh.
    """

    kv: Tensor
    kv_bias: Tensor | None
    gate: Tensor
    gate_bias: Tensor | None
    warm_up: Tensor | None = None
    squash: bool = False


def readers(visual: Tensor, text: Tensor, after: bool = False) -> Tensor:
    """Which tokens of a sequence read slow tokens, (B, L) bool; none in a row that has nothing visual.

    visual, text (B, L) bool; after: only text that follows the first visual token.
    """
    begun = visual.cumsum(-1) > 0 if after else visual.any(-1, keepdim=True)
    return text & begun


def read_slow(state: Tensor, query: Tensor, slow: Tensor, real: Tensor, reads: Tensor, weights: SlowWeights) -> Tensor:
    """The self-attention's output with what some tokens read added, (B, L, D); it then goes through its projection.

    state (B, L, D), query (B, L, H, d), slow (B, n, D), real (B, n) bool where slow tokens are no padding, reads (B, L)
    bool. Slow keys carry no position.
    """
    count = int(reads.sum(-1).max()) if reads.numel() else 0
    if not count or not slow.shape[1]:
        return state
    heads, d = query.shape[2:]
    rows = (~reads).to(torch.uint8).argsort(stable=True, dim=-1)[:, :count]  # (B, r), the readers first
    asks = query.gather(1, rows[..., None, None].expand(-1, -1, heads, d)).transpose(1, 2)
    kv = linear(slow, weights.kv, weights.kv_bias).unflatten(-1, (-1, 2, d))  # (B, n, g, 2, d)
    share = heads // kv.shape[2]
    key, value = kv.permute(3, 0, 2, 1, 4).repeat_interleave(share, 2)
    seen = real | ~real.any(-1, keepdim=True)  # a row without slow tokens is left out below
    context = scaled_dot_product_attention(asks, key, value, attn_mask=seen[:, None, None])
    mine = state.gather(1, rows[..., None].expand(-1, -1, state.shape[-1]))
    gate = linear(mine, weights.gate, weights.gate_bias)
    gate = gate.tanh() if weights.squash else gate
    gate = gate if weights.warm_up is None else gate * weights.warm_up.tanh()
    takes = (reads & real.any(-1, keepdim=True)).gather(1, rows)[..., None]
    more = (context.transpose(1, 2).flatten(2) * gate).masked_fill(~takes, 0)
    return state.scatter_add(1, rows[..., None].expand_as(more), more.to(state.dtype))
