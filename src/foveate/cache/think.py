"""ThinK: store only the key channels that the prompt's last queries use.

Xu et al., "ThinK: Thinner Key Cache by Query-Driven Pruning", ICLR 2025.
https://arxiv.org/abs/2407.21018

A channel matters by the size of its part of the attention logits, the norm of q_i k_i^T over the window's queries and
all keys, which is the norm of the one times the norm of the other. Every KV head keeps its own best channels; the
others are not stored. Values and the newest ``recent`` keys stay whole.

``variant="code"`` prunes the newest keys too, as a toolkit of the field does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SignalError
from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.select import top
from ..stores.coders import Channels
from ..stores.compact import Compact, Halves
from ..stores.packed import filled
from ..stores.stream import Stream, Whole
from ..tokens import Entries


@method(
    title="ThinK: Thinner Key Cache by Query-Driven Pruning",
    url="https://arxiv.org/abs/2407.21018",
    needs=("queries",),
    cost="squares of the keys and of the window's queries",
    vectors=("think",),
)
class ThinK:
    """Key channels by the queries that read them."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of channels each KV head keeps")
    window: int = option(32, Range(1, kind=int), "how many last queries choose")
    recent: int = option(32, Range(0, kind=int), "newest keys that stay whole")
    variant: str = option("paper", OneOf(("paper", "code")), "the paper's rule, or a toolkit's")

    def score(self, entries: Entries) -> Tensor:
        """entries.queries (B, H, w, d), entries.keys (B, g, n, d) -> (B, g, d), higher is kept."""
        if entries.queries is None:
            raise SignalError("think needs the queries (B, H, w, d) of the last prompt tokens; they are None")
        keys = entries.keys.float().square()
        if entries.valid is not None:
            keys = keys * entries.valid[:, None, :, None]
        count = entries.n if entries.valid is None else entries.valid.sum(1)[:, None, None].clamp(min=1)
        asked = entries.queries[:, :, -self.window :].float().square().mean(2)
        group: Tensor = asked.unflatten(1, (keys.shape[1], -1)).mean(2)
        return group * (keys.sum(2) / count)

    def channels(self, entries: Entries) -> Tensor:
        """(B, g, k), ascending."""
        score = self.score(entries)
        b, g, d = score.shape
        return top(score.reshape(b * g, d), budget(self.keep, d)).view(b, g, -1)

    def pack(self, entries: Entries) -> Compact:
        """Keys and values (B, g, n, d), compressed."""
        coder = Channels(self.channels(entries).to(torch.int16))
        hold = 0 if self.variant == "code" else self.recent
        return Halves(Stream(filled(entries.keys, entries.valid), coder, hold=hold), Whole(entries.values))
