"""KVzip: keep the cached tokens that a model needs to repeat its prompt, whatever will be asked.

Kim et al., "KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction", NeurIPS 2025.
https://arxiv.org/abs/2505.23416

After the prompt the model is told to repeat it, stretch by stretch; an entry's score is the strongest attention that
any query of the repetition pays it (:func:`foveate.parts.replay.recalled`). Good for several questions about one
context, at the price of a second pass over it. The lowest scores of all heads of all layers leave together.

The site feeds the prompt's own embeddings again, pictures included, ``stretch`` of them at a time, each after the token
ids ``ask`` ("Repeat the previous text:" in the model's tokenizer); without, the prompt simply starts again. Behind its
own text that is a request, too, but a weaker one than the paper's.

The first ``sinks`` entries always stay: they are the toolkit's, not the paper's. With both scales of ``recalled`` (one
by the norm of the hidden state, the norm of the projected value) the score is that of KVzip+.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..method import Keep, Many, OneOf, Range, method, option
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
    heads: str = option(
        "layers",
        OneOf(("layers", "together", "apart")),
        "who is compared: heads of all layers, those of one layer, or nobody, so that each keeps the same number",
    )
    stretch: int = option(2048, Range(1, kind=int), "tokens that are repeated at a time")
    ask: tuple[int, ...] = option((), Many(Range(0, kind=int)), "token ids that ask for a repetition")

    def score(self, entries: Entries) -> Tensor:
        """entries.recalled (B, g, n) -> (B, g, n), higher is kept."""
        return unpadded(lambda e: ends_first(given(e, "recalled").float().clone(), self.sinks, 0), entries)

    def kept(self, entries: Entries, drop: int) -> Tensor:
        """(B, g, n) bool: all but the ``drop`` entries of each row, of all its heads, that matter least."""
        return lowest_out(self.score(entries), drop)

    def settle(self, layers: Sequence[Entries]) -> list[Reduction]:
        """Of all layers with as many entries: the map of each, (B * g, n) -> selection."""
        same = len({e.keys.shape for e in layers}) == 1
        if self.heads != "layers" or not same:
            return [self.reduce(e) for e in layers]
        g, n = layers[0].keys.shape[1:3]
        score = torch.cat([self.score(e) for e in layers], 1)  # (B, L g, n)
        kept = lowest_out(score, score.shape[1] * (n - number_kept(self.keep, n)))
        return [Reduction.from_mask(part.flatten(0, 1)) for part in kept.split(g, 1)]

    def reduce(self, entries: Entries) -> Reduction:
        """The same for one layer alone. Rows are batch x KV head: (B * g, n) -> selection."""
        if self.heads == "apart":
            return evict(self.score(entries), self.keep, entries)
        drop = entries.keys.shape[1] * (entries.n - number_kept(self.keep, entries.n))
        return Reduction.from_mask(self.kept(entries, drop).flatten(0, 1))
