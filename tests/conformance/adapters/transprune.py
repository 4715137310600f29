"""TransPrune: one drop inside a right-padded batch of prompts; the code counts positions anew and pads on the right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm
from torch.nn.utils.rnn import pad_sequence

from foveate import Reduction, Tokens
from foveate.layers.transprune import TransPrune
from foveate.parts.transition import transition


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    hidden, lengths = given["hidden"], given["attention_mask"].sum(-1).tolist()
    full, stage = int(params["image_tokens"]), int(params["stage"])
    now, after = (int(full * params["ratios"][s]) for s in (stage, stage + 1))
    method = TransPrune(layers=(1,), keeps=(float(params["ratios"][stage + 1]),)) if after else None
    moved = [_moved(given[f"{part}_in"], given[f"{part}_out"]) for part in ("attn", "ffn")]
    first = moved[0] + moved[1]
    extra = [given[name] for name in sorted(given) if name.startswith("ttv_extra")]
    transitions = torch.stack([*moved, *extra], 1)  # (B, S, L)
    rows, kept = [], []
    for b, start in enumerate(params["image_position"]):
        n = int(lengths[b])
        if start < 0:  # no image
            rows.append(torch.arange(n))
            continue
        where = torch.arange(start, start + now)
        q, k = _heads(hidden[b, :n], given, params)
        tokens = Tokens(
            hidden[b : b + 1, where],
            full=full,
            layer=1,
            layers=2,
            transitions=transitions[b : b + 1, :, where],
            q=q,
            k=k,
            where=where[None],
            asks=torch.arange(start + now, n)[None],
        )
        part = method.reduce(tokens) if method else Reduction.from_mask(torch.zeros(1, now, dtype=torch.bool))
        rows.append(part.place(where, n).keep[0])
        kept.append(where[part.keep[0]])
    return {
        "hidden": pad_sequence([hidden[b, keep] for b, keep in enumerate(rows)], batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(keep) for keep in rows], batch_first=True).bool(),
        "position_ids": pad_sequence([torch.arange(len(keep)) for keep in rows], batch_first=True),
        "kept": torch.stack(kept) if kept else torch.zeros(0, after, dtype=torch.int64),
        "ttv0": first,
        "ttv_after": pad_sequence([first[b, keep] for b, keep in enumerate(rows)], batch_first=True),
    }


def _moved(x: Tensor, y: Tensor) -> Tensor:
    """The code takes one softmax over the whole batch."""
    return transition(x.reshape(1, -1, x.shape[-1]), y.reshape(1, -1, y.shape[-1])).view(x.shape[:2])


def _heads(x: Tensor, given: Mapping[str, Tensor], params: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Queries, scaled, and keys of the layer to come. x (n, D) -> (1, H, n, d) each."""
    heads, d = params["num_heads"], params["head_dim"]
    y = rms_norm(x, x.shape[-1:], given["norm_weight"], eps=1e-6)
    angles = torch.arange(len(x))[:, None] * params["rope_base"] ** (-torch.arange(0, d, 2).float() / d)
    angles = torch.cat([angles, angles], -1)
    q, k = ((y @ given[w].T).view(len(x), heads, d).transpose(0, 1) for w in ("wq", "wk"))
    q, k = (t * angles.cos() + torch.cat([-t[..., d // 2 :], t[..., : d // 2]], -1) * angles.sin() for t in (q, k))
    return q[None] * d**-0.5, k[None]
