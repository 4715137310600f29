"""TransPrune: keep the tokens that the layers change most, and that the instruction looks at.

Li et al., "TransPrune: Token Transition Pruning for Efficient Large Vision-Language Model", 2025.
https://arxiv.org/abs/2507.20630

A token's transition is how much attention and MLP change its length, times how far they turn it relative to the rest of
the sequence; summed over the layers so far and over both modules. To that is added the attention that all instruction
tokens pay it in the layer to come; both parts are first brought to a sum of 1.

Departure from the authors' code: kept tokens stay at their original positions (the code counts positions anew).
"""

from __future__ import annotations

from torch import Tensor

from ..method import Many, OneOf, Range, method, option
from ..parts.budget import floor_budget
from ..parts.score import text_rows
from ..parts.select import top
from ..parts.stages import due, equally_long, even, starts
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="TransPrune: Token Transition Pruning for Efficient Large Vision-Language Model",
    url="https://arxiv.org/abs/2507.20630",
    systems=("S011",),
    needs=("transitions", "next_heads"),
    cost="two norms and a cosine for each module, attention rows of the text tokens at each stage",
    vectors=("transprune",),
)
class TransPrune:
    """Staged selection by token transitions and instruction attention."""

    layers: tuple[int, ...] | None = option(
        None, Many(Range(1, kind=int)), "drop before these layers (0-based); default: at even steps of the depth"
    )
    keeps: tuple[float, ...] = option(
        (0.5, 0.25, 0.125), Many(Range(0, 1, open_low=True)), "shares of the original visual tokens left by the stages"
    )
    since: int = option(0, Range(0, kind=int), "first layer (0-based) whose transitions count")
    attention: bool = option(True, OneOf((True, False)), "add the instruction's attention to the transitions")

    def __post_init__(self) -> None:
        equally_long(self, "layers", "keeps")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before the first layer of every stage but the first."""
        return tuple(dict.fromkeys(self._starts(layers)))

    def _starts(self, layers: int) -> tuple[int, ...]:
        return starts(self.layers, even(len(self.keeps)), layers)

    def score(self, tokens: Tokens) -> Tensor:
        """tokens.transitions (B, S, n) and heads of the layer to come -> (B, n), higher is kept."""
        score = _share(tokens.need("transitions")[:, 2 * self.since :].float().sum(1), 1e-8)
        if not self.attention:
            return score
        q, k, where, asks = (tokens.need(name) for name in ("q", "k", "where", "asks"))
        return score + _share(text_rows(q, k, asks, where).mean((1, 2)))

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`score` -> selection of a share of tokens.full."""
        m = floor_budget(due(self._starts(tokens.layers), self.keeps, tokens.layer), tokens.n, tokens.full)
        return Reduction.take(top(self.score(tokens), m), tokens.n)


def _share(score: Tensor, more: float = 0.0) -> Tensor:
    """score (B, n) -> the same with rows that sum to 1."""
    return score / (score.sum(-1, keepdim=True) + more)
