"""Scoring a padded batch row by row, so that what is no token takes part in nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..tokens import Entries

#: The dimension along which a field lists entries.
ALONG = {
    **dict.fromkeys(("valid", "visual"), 1),
    **dict.fromkeys(("keys", "values", "received", "raw_queries", "recalled"), 2),
}
_ROWS = ("rotary", "output", "following")


def unpadded(score: Callable[[Entries], Tensor], entries: Entries) -> Tensor:
    """``score(entries)``, (B, g, n), of the entries that are no padding; the others get -inf."""
    if entries.valid is None or bool(entries.valid.all()):
        return score(replace(entries, valid=None))
    out = torch.full(entries.keys.shape[:3], -torch.inf, device=entries.keys.device)
    for b, valid in enumerate(entries.valid):
        at = valid.nonzero()[:, 0]
        if len(at):
            out[b, :, at] = score(_row(entries, b, at)).float()[0]
    return out


def _row(entries: Entries, b: int, at: Tensor) -> Entries:
    """Some entries of one row."""
    fields: dict[str, Any] = {"valid": None}
    for name, dim in ALONG.items():
        if name != "valid" and (value := getattr(entries, name)) is not None:
            if (
                value.shape[dim] != entries.n
            ):  # queries of a piece of the prompt: its last tokens, padding being in front
                fields[name] = value[b : b + 1, :, -len(at) :]
                continue
            fields[name] = value[b : b + 1].index_select(dim, at)
    for name in _ROWS:
        if (value := getattr(entries, name)) is not None:
            fields[name] = value[b : b + 1]
    if entries.queries is not None:
        w = min(entries.queries.shape[2], len(at))
        fields["queries"] = entries.queries[b : b + 1, :, entries.queries.shape[2] - w :]
    return replace(entries, **fields)
