"""SpAtten: keep the cached tokens that received the most attention, both ends aside.

Wang et al., "SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning", HPCA 2021.
https://arxiv.org/abs/2012.09852

The attention probabilities a token has received say how important it is; the most important ones stay, with the first
and the latest. The paper accumulates over heads, layers and steps, and what one layer drops is gone in all later ones;
a cache is cut layer by layer, so importance is that of the layer and the choice that of each KV head, as in the
authors' port to language models. That port (``variant="code"``) sums the logits of all queries instead, causal or not.
Heads are not pruned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SignalError
from ..method import Keep, OneOf, Range, method, option
from ..parts.evict import evict
from ..parts.evict_heads import place, received
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning",
    url="https://arxiv.org/abs/2012.09852",
    systems=("S095",),
    needs=("received|queries",),
    cost="a sort of n, once the attention received is known",
    vectors=("spatten",),
)
class SpAtten:
    """Eviction by attention received."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of entries each KV head keeps")
    sinks: int = option(4, Range(0, kind=int), "how many first entries are always kept")
    recent: float | int = option(0.25, Keep(), "share (float) of those kept, or number (int), that are the latest ones")
    variant: str = option("paper", OneOf(("paper", "code")), "probabilities, or the sum of unmasked logits")

    def score(self, entries: Entries) -> Tensor:
        """(B, g, n), higher is kept: the last entries, then the first, then by attention."""
        n = entries.n
        score = self._logits(entries) if self.variant == "code" else received(entries)
        m = min(self.keep, n) if isinstance(self.keep, int) else max(1, int(self.keep * n))
        recent = self.recent if isinstance(self.recent, int) else int(self.recent * m)
        at = place(entries)[:, None]
        last = at[..., -1:] - recent
        score = torch.where((at >= 0) & (at < self.sinks), 1e30, score)
        return torch.where(at > last, 2e30 + 1e28 * (at - last), score)

    def _logits(self, entries: Entries) -> Tensor:
        if entries.queries is None:
            raise SignalError("spatten with variant='code' needs the queries of the whole prompt")
        b, g = entries.keys.shape[:2]
        summed = entries.queries.float().sum(2).view(b, g, -1, entries.keys.shape[3]).mean(2)
        return (entries.keys.float() @ summed[..., None])[..., 0] * entries.scaling

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection of m."""
        return evict(self.score(entries), self.keep, entries)
