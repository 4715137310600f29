"""Recoverable Compression: text similarity is given; kept tokens are listed first, then centres, then the summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.recoverable_compression import RecoverableCompression
from foveate.parts.signals import keys


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x, key = given["features"], given["key"]
    weight = (given["query_cls"] @ key.mT * key.shape[-1] ** -0.5).softmax(-1)[0, 0, 1:]
    near = given["text_similarity"].view(-1)
    method = RecoverableCompression(
        neighbours=int(params["neighbours"]),
        text=float(params["text_score_scale"]),
        windows=tuple(int(k) for k in params["lof_neighbours"]),
        variant="code",
    )
    parts = method.split(weight, near, x.shape[-1])
    unit = keys(Tokens(x, keys=key[:, 1:]))[0]
    return {
        "tokens": method.shares(parts, weight, near, unit)[None] @ x,
        "lof_ratios": torch.tensor(parts.ratios),
    }
