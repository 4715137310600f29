"""KVzip: keep the cached tokens that a model needs to repeat its prompt, whatever will be asked.

Kim et al., "KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction", NeurIPS 2025.
https://arxiv.org/abs/2505.23416

After the prompt the model is told to repeat it, stretch by stretch; an entry's score is the strongest attention that
any query of the repetition pays it (:func:`foveate.parts.replay.recalled`). Good for several questions about one
context, at the price of a second pass over it. The lowest scores of all heads of a layer leave together. To compare all
layers too, as the authors do by default, list the heads of all layers side by side in one call, once every layer's
scores are there.

The first ``sinks`` entries always stay: they are the toolkit's, not the paper's. With both scales of ``recalled`` (one
by the norm of the hidden state, the norm of the projected value) the score is that of KVzip+.
"""

from __future__ import annotations

from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.evict import evict
from ..parts.padding import unpadded
from ..parts.pooled_budget import lowest_out, number_kept
from ..parts.votes import ends_first, given
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction",
    url="https://arxiv.org/abs/2505.23416",
    needs=("recalled",),
    cost="a second pass over the prompt by the site; a sort of the n entries of all heads",
    vectors=("kvzip",),
    exempt={"budget": "keep is the mean over the heads, which keep different numbers"},
)
class KVzip:
    """Eviction of what repeating the prompt does not need."""

    keep: float | int = option(0.3, Keep(), "share (float) or number (int) of entries each KV head keeps on average")
    sinks: int = option(4, Range(0, kind=int), "how many first entries are always kept")
    heads: str = option("together", OneOf(("together", "apart")), "apart: each head keeps the same number")

    def score(self, entries: Entries) -> Tensor:
        """entries.recalled (B, g, n) -> (B, g, n), higher is kept."""
        return unpadded(lambda e: ends_first(given(e, "recalled").float().clone(), self.sinks, 0), entries)

    def kept(self, entries: Entries, drop: int) -> Tensor:
        """(B, g, n) bool: all but the ``drop`` entries of each row, of all its heads, that matter least."""
        return lowest_out(self.score(entries), drop)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> selection."""
        if self.heads == "apart":
            return evict(self.score(entries), self.keep, entries)
        drop = entries.keys.shape[1] * (entries.n - number_kept(self.keep, entries.n))
        return Reduction.from_mask(self.kept(entries, drop).flatten(0, 1))
