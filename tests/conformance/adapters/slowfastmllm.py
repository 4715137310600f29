"""Slow-Fast MLLM: one hybrid layer's reading of the slow tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate.parts.slow_fast import SlowWeights, read_slow, readers

FAST = 3


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kind, gating = given["token_type"], params["gating"]
    weights = SlowWeights(
        kv=given["w.cross_attn_kv_proj.weight"],
        kv_bias=given.get("w.cross_attn_kv_proj.bias"),
        gate=given["w.cross_attn_gate_proj.0.weight"],
        gate_bias=given.get("w.cross_attn_gate_proj.0.bias"),
        warm_up=given["w.cross_attn_warm_up_gate"] if "warmup" in gating else None,
        squash="tanh" in gating,
    )
    reads = readers(kind == FAST, kind < FAST, after="masksystem" in params["impl"])
    return {"state": read_slow(given["state"], given["query"], given["slow"], given["slow_mask"], reads, weights)}
