"""DART: keep a few pivot tokens and, for each, the visual tokens that duplicate it least.

Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More", EMNLP 2025.
https://arxiv.org/abs/2502.11494

Pivots are the visual and text tokens whose keys in the layer before have the largest norm (sum of absolute values over
all heads). Each pivot in turn takes an equal share of what is left of the budget: the free visual tokens whose hidden
states are least similar (cosine) to its own. Visual pivots stay as well.

Departures from the authors' code: visual pivots take their turns first, largest norm first, then text pivots (the code
follows the order of a hash set); the budget is met exactly (the code rounds each share); hidden states are compared as
they are (the code applies the LLM's last norm first).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..parts.diverse import least_like
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More",
    url="https://arxiv.org/abs/2502.11494",
    needs=("last_heads", "text"),
    cost="one similarity row and a sort of n for each pivot",
)
class DART:
    """Pivots and the tokens that repeat them least."""

    layer: int = option(
        2, Range(1, kind=int), "drop before this layer (0-based); its predecessor's keys give the norms"
    )
    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of visual tokens to keep")
    visual: int = option(4, Range(1, kind=int), "how many visual tokens are pivots")
    textual: int = option(4, Range(0, kind=int), "how many text tokens after the image are pivots")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before one layer."""
        return (self.layer,)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), text (B, t, D), k (B, g, L, d), where (B, n), asks (B, t) -> selection of m."""
        norm = tokens.need("k").float().abs().sum((1, 3))  # (B, L)
        m = budget(self.keep, tokens.n, tokens.full)
        seen = _largest(norm.gather(1, tokens.need("where")), min(self.visual, m))
        said = _largest(norm.gather(1, tokens.need("asks")), self.textual)
        unit, words = normalize(tokens.x.float(), dim=-1), normalize(tokens.need("text").float(), dim=-1)
        pivots = torch.cat([_rows(unit, seen), _rows(words, said)], 1)
        taken = torch.zeros(unit.shape[:2], dtype=torch.bool, device=unit.device).scatter(1, seen, True)
        rest, turns = m - seen.shape[1], pivots.shape[1]
        for i in range(turns):
            mine = rest // turns + (i < rest % turns)
            taken = taken.scatter(1, least_like(unit, pivots[:, i], taken, mine), True)
        return Reduction.from_mask(taken)


def _largest(score: Tensor, m: int) -> Tensor:
    """score (B, n) -> (B, m) positions, largest first."""
    return score.argsort(stable=True, dim=-1, descending=True)[:, :m]


def _rows(x: Tensor, at: Tensor) -> Tensor:
    """x (B, n, D), at (B, m) -> (B, m, D)."""
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))
