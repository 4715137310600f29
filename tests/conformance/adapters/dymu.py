"""DyMU: thresholds for one image ("instance"), for a batch with or without calibration ("batch"), unmerging ("vtu")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from foveate import Reduction, Tokens
from foveate.encoder.dymu import DyMU, calibrate
from foveate.parts.edges import joined, pooled
from foveate.parts.merge import uneven
from foveate.parts.unmerge import virtual_attention, virtual_logits


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if params["variant"] == "vtu":
        return _unmerged(params, given)
    return _instance(params, given) if params["variant"] == "instance" else _batch(params, given)


def _tokens(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> Tokens:
    size = given["size"][..., 0] if "size" in given else torch.ones(given["x"].shape[:2])
    return Tokens(given["x"], prefix=int(bool(params.get("class_token"))), metric=given["metric"], size=size)


def _instance(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tokens = _tokens(params, given)
    most = (tokens.n - tokens.prefix) // 2  # of an odd number without class token, the code spares one source
    if params.get("max_r_per_instance") is not None:
        most = min(most, int(params["max_r_per_instance"]))
    out = DyMU(thresholds=(float(params["threshold"]),), most=most, variant="code").reduce(tokens)
    y = out(tokens.x)
    held = (out.to_dense() != 0).float()
    return {"tokens": y, "size": out.size(tokens.size)[..., None], "pos_tracking": held, "repeated": held.mT @ y}


def _batch(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tokens = _tokens(params, given)
    x, prefix, most = tokens.x, tokens.prefix, params.get("max_r_per_instance")
    if params.get("threshold") is None:  # calibration also merges, by what it found
        r = min(int(params["r"]), (tokens.n - prefix) // 2)
        found = DyMU(most=most).edges(tokens)
        out = uneven(joined(found, pooled(found.best, r)[0], tokens.n), tokens.size)
        cut = calibrate([tokens.need("metric")], r, prefix, most)
    else:
        cut = float(params["threshold"])
        out = DyMU(thresholds=(cut,), most=most).reduce(tokens)
    rows = [_listed(out.row(b)) for b in range(out.b)]
    size = [r.size(tokens.need("size")[b : b + 1])[0] for b, r in enumerate(rows)]
    y = [r(x[b : b + 1])[0] * (s / (s + 1e-4))[:, None] for b, (r, s) in enumerate(zip(rows, size))]
    lengths = out.lengths
    return {
        "tokens": torch.stack([pad(t, (0, 0, 0, out.m - len(t))) for t in y]),
        "size": torch.stack([pad(s, (0, out.m - len(s))) for s in size])[..., None],
        "padding_mask": (torch.arange(out.m) >= lengths[:, None]).float(),
        "lengths": lengths,
        "threshold": torch.tensor(cut),
    }


def _listed(row: Reduction) -> Reduction:
    """Surviving sources, which are even, before destinations, each in place."""
    keep = row.keep[0]
    return row.listed(torch.cat([keep[keep % 2 == 0], keep[keep % 2 == 1]])[None])


def _unmerged(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    heads, d, where = int(params["num_heads"]), int(params["head_dim"]), given["mapping"]
    q, k, v = (
        (given["hidden"] @ given[w].T).unflatten(-1, (-1, d)).transpose(1, 2) for w in ("q_proj", "k_proj", "v_proj")
    )
    angles = torch.arange(len(where))[:, None] * float(params["rope_base"]) ** (-torch.arange(0, d, 2).float() / d)
    angles = torch.cat([angles, angles], -1)
    cos, sin = angles.cos(), angles.sin()
    assert q.shape[1] == heads
    out = virtual_attention(q, k, v, where, cos, sin, d**-0.5, chunk=16)
    return {
        "out": out.transpose(1, 2).flatten(2) @ given["o_proj"].T,
        "scores": virtual_logits(q, k, where, cos, sin, d**-0.5),
    }
