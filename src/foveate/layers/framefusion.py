"""FrameFusion: in the first layers, fold tokens into the frame before where they repeat it; then prune by attention.

Fu et al., "FrameFusion: Combining Similarity and Importance for Video Token Reduction on Large Vision Language Models",
ICCV 2025.
https://arxiv.org/abs/2501.01986

Hidden states are compared (cosine) with the token before in the same place. Those alike are folded into the head of
their run by a plain mean, layer after layer, until few are left to fold; what is still above the budget leaves by the
attention it received, mean over heads and all queries. The budget is a cost: the mean share of tokens over the layers.

Departures: the first merging is before layer 1, not 0. Pruning happens in the step that ends the merging, or in the
last of ``layers``, and reads the layer before (a fold counts as the mean of its members); the code waits for the next
layer's attention. What earlier layers cost is inferred from how many tokens are left. With ``keep`` one step folds and
prunes to that number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import OptionError
from ..method import Keep, Many, Range, method, option
from ..parts.budget import budget
from ..parts.chunks import page_rank
from ..parts.film import Film, likeness
from ..parts.merge import uneven
from ..parts.select import top
from ..parts.twins import latest
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="FrameFusion: Combining Similarity and Importance for Video Token Reduction on Large Vision Language Models",
    url="https://arxiv.org/abs/2501.01986",
    needs=("grid", "last_heads"),
    cost="one product of each token with another; once, the attention map of a layer again, in slices",
    vectors=("framefusion",),
)
class FrameFusion:
    """Merging by similarity, then pruning by importance."""

    keep: float | int | None = option(
        None, Keep(), "share (float) or number (int) of tokens left by one step; default: several steps, under cost"
    )
    cost: float = option(0.3, Range(0, 1, open_low=True), "mean share of the visual tokens over all layers")
    alike: float = option(0.6, Range(-1, 1), "cosine from which a token is folded into the one before")
    least: float = option(0.1, Range(0, 1), "merging ends when less than this share of the tokens was folded")
    layers: tuple[int, ...] = option(
        (1, 2, 3), Many(Range(1, kind=int)), "fold before these layers (0-based); with keep, before the first of them"
    )

    def __post_init__(self) -> None:
        if not self.layers:
            raise OptionError("'layers' of framefusion must name at least one layer. Got ().")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before the merging layers, or the first of them."""
        acting = tuple(sorted({max(1, min(layers - 1, layer)) for layer in self.layers}))
        return acting if self.keep is None else acting[:1]

    def sameness(self, tokens: Tokens, film: Film) -> Tensor:
        """Cosine of each token with the one before in its place, -inf where there is none: (B, n)."""
        return likeness(tokens.x, latest(film))

    def folded(self, same: Tensor, most: int) -> Tensor:
        """Which tokens are folded: those alike, the most alike if there are too many. same (B, n) -> (B, n) bool."""
        rank = same.argsort(stable=True, dim=-1, descending=True).argsort(-1)
        return (same >= self.alike) & (rank < most)

    def importance(self, q: Tensor, k: Tensor) -> Tensor:
        """Attention received, mean over heads and queries: q (B, H, L, d) already scaled, k (B, g, L, d) -> (B, L)."""
        return page_rank(q, k, 1).mean(1)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), grid (B, n, 3), heads of the layer that ran last -> merge; pruned where merging ends."""
        film, n, goal = Film(tokens), tokens.n, self._goal(tokens)
        if goal >= n:
            return Reduction.identity(len(tokens.x), n, tokens.x.device)
        gone = self.folded(self.sameness(tokens, film), n - goal)
        into, count = heads(gone, film), gone.sum(-1)
        ends = (count < self.least * n) | (tokens.layer >= self.at(tokens.layers)[-1])
        ends &= count < n - goal
        if bool(ends.any()):
            received = self.importance(tokens.need("q"), tokens.need("k")).gather(1, tokens.need("where"))
            zero, one = torch.zeros_like(received), torch.ones_like(received)
            mean = zero.scatter_add(1, into, received) / zero.scatter_add(1, into, one).clamp(min=1)
            score = mean.masked_fill(gone, -torch.inf)
            stays = torch.zeros_like(gone).scatter(1, top(score, goal), True) | ~ends[:, None]
            into = into.masked_fill(~stays.gather(1, into), -1)
        return uneven(into)

    def _goal(self, tokens: Tokens) -> int:
        """How many tokens the steps lead to."""
        if self.keep is not None:
            return budget(self.keep, tokens.n, tokens.full)
        first = self.at(tokens.layers)[0]
        share = tokens.n / max(1, tokens.full or tokens.n)
        held = [1.0] * first + [share] * (tokens.layer - first)
        return max(1, int(tokens.n * (1 - surplus(held, self.cost, tokens.layers)) + 1e-6))


def surplus(held: Sequence[float], cost: float, layers: int) -> float:
    """The share of the tokens that has to leave for the layers to come to stay within the cost, and 0 if none.

    held: the share of all tokens that each layer so far held; cost: the mean over all layers.
    """
    now = held[-1] if held else 1.0
    return max(0.0, 1 - (layers * cost - sum(held)) / ((layers - len(held)) * now))


def heads(gone: Tensor, film: Film) -> Tensor:
    """Fold each token that goes into the last one before it, in its place, that stays. gone (B, n) -> into (B, n)."""
    stays = film.there & ~film.laid(gone)
    return film.picked(film.table.masked_fill(~stays, -1).cummax(1).values)
