"""TempMe: CLIP blocks with LoRA and time codes around the method; the states and sizes after each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from blocks import attend, mlp, quick_gelu
from torch import Tensor

from foveate import Tokens
from foveate.encoder.tempme import TempMe

EPS = 1e-5
NAMES = {
    "attn.out_proj": "out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "fc1",
    "mlp.c_proj": "fc2",
}


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, schedule = given["x"], params["schedule"]
    method = TempMe(
        join=tuple(int(clips) for clips, _ in schedule),
        across=tuple(int(removed[0]) if len(removed) > 1 else 0 for _, removed in schedule),
        within=tuple(int(removed[-1]) for _, removed in schedule),
        proportional=bool(params["prop_attn"]),
        variant="code",
    )
    size, prefix, clips_left, states = torch.ones(x.shape[:2]), 1, int(params["frames"]), {}
    for i in range(len(schedule)):
        w = _weights(given, i)
        step = {"layer": i, "layers": len(schedule)}
        if (clips := method.clips(i)) > 1:
            code = w.get("TVPt_Video_Positional_embedding")  # one for each clip of a video
            timed = x
            if code is not None and method.across[i] and params.get("frame_pos", 1):
                timed = (x.unflatten(0, (-1, clips_left)) + code).flatten(0, 1)
            x, timed, size = (method.joined(t, prefix, clips) for t in (x, timed, size))
            prefix, clips_left = prefix * clips, clips_left // clips
            before = method.before(Tokens(x, prefix=prefix, size=size, **step))
            x, size = before(timed), before.size(size)
        out, keys = attend(x, w, int(params["heads"]), EPS, size.log() if method.proportional else None)
        after = method.reduce(Tokens(x + out, prefix=prefix, metric=keys, size=size, **step))
        x, size = mlp(after(x + out), w, EPS, quick_gelu), after.size(size)
        states |= {f"x_{i}": x, f"size_{i}": size}
    return states


def _weights(given: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    """Block i under the names of :mod:`blocks`, LoRA added in."""
    start = f"w.blocks.{i}."
    w = {k.removeprefix(start): v for k, v in given.items() if k.startswith(start)}
    qkv = w["attn.in_proj_weight"]
    if "attn.TVPt_LoRA_a" in w:
        qkv = qkv + w["attn.TVPt_LoRA_b"] @ w["attn.TVPt_LoRA_a"]
    out = {k: v for k, v in w.items() if k.startswith("TVPt")}
    for name, weight, bias in zip("qkv", qkv.chunk(3), w["attn.in_proj_bias"].chunk(3)):
        out |= {f"{name}_proj.weight": weight, f"{name}_proj.bias": bias}
    names = {
        "attn.out_proj": "out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "fc1",
        "mlp.c_proj": "fc2",
    }
    for theirs, ours in names.items():
        out |= {f"{ours}.{part}": w[f"{theirs}.{part}"] for part in ("weight", "bias")}
    return out
