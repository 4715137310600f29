"""LazyEviction: some steps of decoding, an eviction after each window of them, and what ties leave open in the last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.cache.lazyeviction import LazyEviction
from foveate.parts.evict import evict
from foveate.parts.recurrence import Recurrence
from foveate.parts.score import attention_rows
from foveate.tokens import Entries


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, new, queries = given["prompt_keys"][None], given["new_keys"][None], given["queries"][None]
    cap, window, d = int(params["max_kv_capacity"]), int(params["window"]), keys.shape[3]
    method = LazyEviction(keep=cap, window=window, alpha=float(params["alpha"]))
    state, out = None, {}
    for t in range(int(params["steps"])):
        keys = torch.cat([keys, new[:, :, t : t + 1]], 2)
        rows = attention_rows(queries[:, :, t : t + 1], keys, d**-0.5)[:, :, 0]
        state = (Recurrence.start(rows) if state is None else state).see(rows, method.alpha)
        n = keys.shape[2]
        if (t + 1) % window == 0 and n > cap:
            score = state.score()
            out = {"scores": score[0, :, : n - window], **_sure(score[0, :, : n - window], cap - window, window)}
            kept = evict(method.pinned(score, torch.arange(n)), cap, Entries(keys, keys)).keep.view(1, -1, cap)
            state, keys = state.gathered(kept), keys.gather(2, kept[..., None].expand(-1, -1, -1, d))
    return {"n_kept": torch.tensor([keys.shape[2]]), **out}


def _sure(score: Tensor, m: int, window: int) -> dict[str, Tensor]:
    """Which entries are better and which are worse than the last of the m that stay. score (H, n - window)."""
    bar = score.sort(dim=-1, descending=True).values[:, m - 1 : m]
    latest = torch.ones(len(score), window, dtype=torch.bool)
    return {"sure_keep": torch.cat([score > bar, latest], 1), "sure_drop": torch.cat([score < bar, ~latest], 1)}
