"""FitPrune: delete the tokens whose loss changes the attention maps least, layer by layer, on a fitted schedule.

Ye et al., "Fit and Prune: Fast and Training-free Visual Token Pruning for Multi-modal Large Language Models",
AAAI 2025.
https://arxiv.org/abs/2409.10197

Before the stages' layers, visual tokens are ranked by the product of two sums over the attention of the layer before:
what the text pays them and what the visual tokens pay them, each pair in its strongest head. How many go in which layer
comes from :func:`fit` on a few samples: in each layer as many as leave 1 - alpha of both masses, with the smallest
alpha that meets a budget; ``FitPrune.of(counts, n)`` is the method with that schedule.

Departures: the code deletes between attention and MLP of one layer, this before the next layer; the default schedule
has three stages, since every stage costs the queries and keys of one whole attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ..method import Many, Range, method, option
from ..parts.budget import budget
from ..parts.chunks import strongest_head
from ..parts.select import top
from ..parts.stages import due, equally_long, even, starts
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Fit and Prune: Fast and Training-free Visual Token Pruning for Multi-modal Large Language Models",
    url="https://arxiv.org/abs/2409.10197",
    needs=("last_heads",),
    cost="the attention map of one layer again, in slices, at each stage",
    vectors=("fitprune",),
)
class FitPrune:
    """Staged selection by attention received from text and from the image."""

    layers: tuple[int, ...] | None = option(
        None, Many(Range(1, kind=int)), "drop before these layers (0-based); default: at even steps of the depth"
    )
    keeps: tuple[float, ...] = option(
        (0.6, 0.35, 0.15), Many(Range(0, 1, open_low=True)), "shares of the original visual tokens left by the stages"
    )

    def __post_init__(self) -> None:
        equally_long(self, "layers", "keeps")

    @classmethod
    def of(cls, counts: Sequence[int], n: int) -> FitPrune:
        """The method for a fitted schedule: counts[i] of n tokens go after the attention of layer i; n - sum > 0."""
        left = [n - gone for gone in accumulate(counts)]
        stages = [(i + 1, rest / n) for i, (rest, gone) in enumerate(zip(left, counts)) if gone]
        return cls(layers=tuple(i for i, _ in stages), keeps=tuple(keep for _, keep in stages))

    def at(self, layers: int) -> tuple[int, ...]:
        """Before the layers after those whose attention decides; a deletion in the very last layer changes nothing."""
        return tuple(i for i in dict.fromkeys(self._starts(layers)) if i < layers)

    def _starts(self, layers: int) -> tuple[int, ...]:
        return starts(self.layers, even(len(self.keeps)), layers)

    def sums(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """What the text pays each token, and what the visual tokens pay it divided by their number: (B, n) each."""
        q, k, where, asks = (tokens.need(name) for name in ("q", "k", "where", "asks"))
        return strongest_head(q, k, asks, where), strongest_head(q, k, where, where) / tokens.n

    def reduce(self, tokens: Tokens) -> Reduction:
        """Heads of the layer that ran last -> selection of a share of tokens.full."""
        m = budget(due(self._starts(tokens.layers), self.keeps, tokens.layer), tokens.n, tokens.full)
        if m == tokens.n:
            return Reduction.identity(tokens.x.shape[0], tokens.n, tokens.x.device)
        cross, own = self.sums(tokens)
        return Reduction.take(top(cross * own, m), tokens.n)


def light(score: Tensor, mass: Tensor, alpha: float) -> Tensor:
    """The smallest scores, as many as leave at least 1 - alpha of ``mass``. score (..., n), mass (..., 1) -> bool."""
    order = score.argsort(dim=-1, stable=True)
    left = score.sum(-1, keepdim=True) - score.gather(-1, order).cumsum(-1)
    count = (left >= (1 - alpha) * mass).long().cumprod(-1).sum(-1, keepdim=True)
    return order.argsort(-1) < count


def deletions(cross: Tensor, own: Tensor, alpha: float) -> list[int]:
    """Tokens to delete in each layer: those that are light in both sums, averaged over samples and rounded down.

    cross, own (samples, layers, n) of the whole model: see :meth:`FitPrune.sums`.
    """
    alive, counts = torch.ones_like(cross[:, 0], dtype=torch.bool), []
    for i in range(cross.shape[1]):
        gone = alive.clone()
        for score in (cross[:, i], own[:, i]):  # the deleted count as weightless, and go first
            gone &= light(score * alive, score.sum(-1, keepdim=True), alpha)
        alive &= ~gone
        counts.append(int(gone.sum()) // cross.shape[0])
    return counts


def fit(
    cross: Tensor, own: Tensor, target: float, cost: Callable[[list[int], int], float] | None = None
) -> tuple[int, ...]:
    """The schedule of the smallest alpha (to 0.01) whose cost is at most ``target``.

    Args:
        cross, own: (samples, layers, n) sums on a few calibration samples: see :meth:`FitPrune.sums`.
        target: largest cost allowed.
        cost: of a schedule, from its counts and n; by default the mean share of visual tokens that layers process.
    """
    n, cost = cross.shape[2], cost or work
    low, high = 0.0, 1.0
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(deletions(cross, own, middle), n) <= target else (middle, high)
    return tuple(deletions(cross, own, high))


def work(counts: Sequence[int], n: int) -> float:
    """Mean share of n visual tokens that the layers of a schedule process."""
    before = [0, *accumulate(counts)][: len(counts)]
    return sum(n - gone for gone in before) / (n * max(1, len(counts)))
