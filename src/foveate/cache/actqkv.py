"""ActQKV: keep the blocks of the cache that a probe query asks for, made of the queries that stand out.

Xiao et al., "Activation-aware Probe-Query: Effective Key-Value Retrieval for Long-Context LLMs Inference", 2025.
https://arxiv.org/abs/2502.13542

A window's queries are added up, each weighed by how far it lies from the mean in units of the variance; the sum is
compared with the mean key of every block by its cosine. The authors keep the whole cache and fetch the best blocks for
each window, with a budget that layers share by how evenly their scores are spread: :class:`foveate.parts.probe.Bias`
and :class:`foveate.parts.probe.Shares` follow a run in that way.

Here the prompt's last window chooses once, what is not chosen is evicted, all heads keep the same, and the last block
may be cut. Query heads that share a KV head are averaged. The window itself stays.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad

from ..errors import SignalError
from ..method import Keep, Range, method, option
from ..parts.evict import evict
from ..parts.probe import Bias, probe
from ..parts.score import pin
from ..reduction import Reduction
from ..stores.packed import side_by_side
from ..tokens import Entries


@method(
    title="Activation-aware Probe-Query: Effective Key-Value Retrieval for Long-Context LLMs Inference",
    url="https://arxiv.org/abs/2502.13542",
    systems=("S092",),
    needs=("queries",),
    cost="a mean of the keys of each block, a cosine for each block",
    vectors=("actqkv",),
)
class ActQKV:
    """Blocks by an activation-weighted query."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head keeps")
    window: int = option(64, Range(1, kind=int), "how many last queries make the probe; their entries stay")
    block: int = option(32, Range(1, kind=int), "entries that stand or fall together")

    def score(self, entries: Entries) -> Tensor:
        """entries.queries (B, H, w, d), entries.keys (B, g, n, d) -> (B, n), higher is kept."""
        if entries.queries is None:
            raise SignalError("actqkv needs the queries (B, H, w, d) of the last prompt tokens; they are None")
        n, w = entries.n, min(self.window, entries.n - 1, entries.queries.shape[2])
        if not w:
            return pin(torch.zeros(entries.keys.shape[0], 0, device=entries.keys.device), n)
        valid = entries.valid
        heads = entries.queries[:, :, -w:].float().unflatten(1, (entries.keys.shape[1], -1)).mean(2)
        asked = side_by_side(heads)  # (B, w, g d)
        one = probe(asked, Bias().weights(asked, None if valid is None else valid[:, n - w :]))
        near = cosine_similarity(one[:, None], self.blocks(side_by_side(entries.keys), valid), dim=-1)
        return pin(near.repeat_interleave(self.block, 1)[:, : n - w], w)

    def blocks(self, keys: Tensor, valid: Tensor | None) -> Tensor:
        """keys (B, n, C) -> mean key of each block (B, blocks, C), without padding."""
        real = torch.ones(keys.shape[:2], device=keys.device) if valid is None else valid.float()
        rest = -keys.shape[1] % self.block
        total = pad(keys.float() * real[..., None], (0, 0, 0, rest)).unflatten(1, (-1, self.block)).sum(2)
        mean: Tensor = total / pad(real, (0, rest)).unflatten(1, (-1, self.block)).sum(2).clamp(min=1)[..., None]
        return mean

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m, the same in all heads."""
        score = self.score(entries)
        return evict(score[:, None].expand(-1, entries.keys.shape[1], -1), self.keep, entries)
