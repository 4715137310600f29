"""HiRED: thumbnail and crops come as rows of N tokens, the class token in column 0; foveate sees one list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.hired import HiRED


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    early, late = (given[name].sum(1)[:, 1:] for name in ("top_cls_attn", "bottom_cls_attn"))
    parts, n = early.shape
    rows = torch.stack([early.flatten(), late.flatten()])[None]
    crop = torch.arange(parts).repeat_interleave(n)[None]
    method = HiRED(keep=min(1.0, float(params["token_budget_rate"])), alpha=float(params["alpha"]), variant="code")
    tokens = Tokens(torch.zeros(1, parts * n, 1), cls_layers=rows, crop=crop)
    mask = method.reduce(tokens).kept.view(parts, n)
    return {"mask": mask, "budgets": mask.sum(-1)}
