"""PyramidDrop: one drop inside a right-padded batch of prompts.

The code counts positions anew after the drop and pads on the right; both follow from the positions that foveate keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm
from torch.nn.utils.rnn import pad_sequence

from foveate import Reduction, Tokens
from foveate.layers.pyramiddrop import PyramidDrop
from foveate.parts.score import attention_rows


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    hidden, lengths = given["hidden"], given["attention_mask"].sum(-1).tolist()
    full, stage = int(params["image_tokens"]), int(params["stage"])
    now, after = (int(full * params["ratios"][s]) for s in (stage, stage + 1))
    method = PyramidDrop(layers=(1,), keeps=(float(params["ratios"][stage + 1]),)) if after else None
    rows, kept = [], []
    for b, start in enumerate(params["image_position"]):
        n = int(lengths[b])
        if start < 0:  # no image
            rows.append(torch.arange(n))
            continue
        where = torch.arange(start, start + now)
        attention = _last_row(hidden[b, :n], given, params)[None, :, where]
        tokens = Tokens(hidden[b : b + 1, where], full=full, layer=1, layers=2, next_attention=attention)
        part = method.reduce(tokens) if method else Reduction.from_mask(torch.zeros(1, now, dtype=torch.bool))
        rows.append(part.place(where, n).keep[0])
        kept.append(where[part.keep[0]])
    return {
        "hidden": pad_sequence([hidden[b, keep] for b, keep in enumerate(rows)], batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(keep) for keep in rows], batch_first=True).bool(),
        "position_ids": pad_sequence([torch.arange(len(keep)) for keep in rows], batch_first=True),
        "kept": torch.stack(kept) if kept else torch.zeros(0, after, dtype=torch.int64),
    }


def _last_row(x: Tensor, given: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    """Attention of the prompt's last token on all tokens in the layer to come. x (n, D) -> (H, n)."""
    heads, d = params["num_heads"], params["head_dim"]
    y = rms_norm(x, x.shape[-1:], given["norm_weight"], eps=1e-6)
    angles = torch.arange(len(x))[:, None] * params["rope_base"] ** (-torch.arange(0, d, 2).float() / d)
    angles = torch.cat([angles, angles], -1)
    q, k = ((y @ given[w].T).view(len(x), heads, d).transpose(0, 1) for w in ("wq", "wk"))
    q, k = (t * angles.cos() + torch.cat([-t[..., d // 2 :], t[..., : d // 2]], -1) * angles.sin() for t in (q, k))
    return attention_rows(q[None, :, -1:], k[None], d**-0.5)[0, :, 0]
