"""A few queries of the prompt that stand for all of them, and the attention they pay."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tokens import Entries
from .budget import floor_budget
from .score import attention_rows
from .votes import given


def probe_places(entries: Entries, probes: float | int) -> Tensor:
    """(r,) which of the queries ask: the newest ``probes`` of them (share or number), and as many spread over the rest.

    The spread ones are random but always the same; without the queries of the whole prompt only the newest ask.
    """
    queries = given(entries, "queries")
    w = queries.shape[2]
    r = floor_budget(probes, w) if isinstance(probes, float) else min(probes, w)
    newest = torch.arange(w - r, w)
    if w == entries.n:
        spread = torch.randperm(w - r, generator=torch.Generator().manual_seed(0))[:r]
        newest = torch.cat([spread.sort().values, newest])
    return newest.to(queries.device)


def probe_attention(entries: Entries, places: Tensor) -> tuple[Tensor, Tensor]:
    """Attention that entries get from the queries at places (r,), summed over query heads: (B, g, n); and
    how many of these queries see each entry: (n,)."""
    queries = given(entries, "queries")
    n, w = entries.n, queries.shape[2]
    at, key = places + (n - w), torch.arange(n, device=places.device)
    seen = key <= at[:, None]  # (r, n)
    mask = seen if entries.valid is None else seen & entries.valid[:, None, None]
    rows = attention_rows(queries[:, :, places], entries.keys, entries.scaling, mask).nan_to_num(0.0)
    total: Tensor = rows.sum(2).unflatten(1, (entries.keys.shape[1], -1)).sum(2)
    return total, seen.sum(0)
