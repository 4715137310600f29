"""KV-head compression: several KV heads are stored as one, in the directions they use most.

Yu et al., "Effectively Compress KV Heads for LLM", 2024.
https://arxiv.org/abs/2406.07056

The caches of several heads side by side have low rank. For each group of ``group`` heads the singular vectors of their
entries are found, keys and values apart, and as many of them kept as ``heads`` heads have channels: what a model with
fewer KV heads would store. The paper folds the vectors into the projections once, from calibration data, and tunes the
model; here they come from the prompt's own entries, which are then the best of that rank for it, nothing is trained,
and entries are read back to all heads. So memory is saved, and no time. Keys are compressed with their rotary
embedding on; the paper takes it off first, which holds more with fewer channels but needs every key's position.

The vectors take as much room as some hundred entries, so short prompts gain nothing. Models with one KV head have
nothing to share. The newest ``recent`` entries wait whole.
"""

from __future__ import annotations

from ..errors import OptionError
from ..method import Range, method, option
from ..stores.compact import Compact, Halves
from ..stores.heads import GroupedHeads, directions
from ..stores.packed import filled, small
from ..stores.stream import Stream
from ..tokens import Entries


@method(
    title="Effectively Compress KV Heads for LLM",
    url="https://arxiv.org/abs/2406.07056",
    systems=("S085",),
    needs=(),
    cost="one eigenvalue problem of group x d for each group, two products",
)
class KVHeads:
    """Fewer KV heads, by singular vectors."""

    group: int = option(2, Range(1, kind=int), "KV heads that are stored together")
    heads: float = option(1.0, Range(0, 64, open_low=True), "as how many, at most as there are; parts of one allowed")
    recent: int = option(32, Range(1, kind=int), "newest entries, which are coded so many at a time")

    def __post_init__(self) -> None:
        if self.heads > self.group:
            raise OptionError(f"'heads' of kvheads must be at most its 'group', {self.group}. Got {self.heads!r}.")

    def pack(self, entries: Entries) -> Compact:
        """Keys and values (B, g, n, d), compressed."""
        sides = []
        for x in (entries.keys, entries.values):
            x = filled(x, entries.valid)
            group = min(self.group, x.shape[1])
            rank = max(1, min(group * x.shape[3], round(self.heads * x.shape[3])))
            basis = directions(x, group, rank).to(small(x))
            sides.append(Stream(x, GroupedHeads(basis, group), step=self.recent))
        return Halves(*sides)
