"""M2R2: the model drafts for itself from an inner layer whose residual stream was sped up towards the last one's.

Bhendawade et al., "M2R2: Mixture of Multi-rate Residuals for Efficient Transformer Inference", 2025.
https://arxiv.org/abs/2502.02040

What a token's residual stream will be after the last layer, an inner layer mostly knows in part: it moves too slowly.
Beside the slow stream runs a second one, which takes the same steps and a trained one more at each layer; at the exit
it is read with the model's own norm and head. Drafts end where it is not sure. One forward of the whole model checks
them, so the words are the model's.

The authors' code could not be reached. What runs here is the paper's idea in its simplest form: at layer i the fast
stream takes the slow one's step and adds ``up_i silu(down_i norm(p))``, norm without a weight
(:func:`foveate.parts.fast_residual.accelerate`). The small matrices are given (``weights``), a pair for each layer up
to the exit; training them, to bring the fast stream to the last hidden state, is no part of this. Nor are the paper's
use for early exits without a check, and for loading experts ahead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import PlanError
from ..method import Range, method, option
from ..parts.fast_residual import accelerate, pairs_of
from ._drafter import Draft, Drafter, Outcome, Skimmer, Turn
from ._weights import Weights


@method(
    title="M2R2: Mixture of Multi-rate Residuals for Efficient Transformer Inference",
    url="https://arxiv.org/abs/2502.02040",
    systems=("S104",),
    needs=(),
    training="two small matrices for each layer up to the exit (given, not trained here)",
    cost="exit / layers of a forward for each drafted token",
)
class M2R2:
    """Drafts from a residual stream that was sped up."""

    weights: Any = option(None, Weights(), "safetensors file with 'layers.i.down' (r, D) and 'layers.i.up' (D, r)")
    tokens: int = option(6, Range(1, kind=int), "longest draft")
    stop: float = option(0.5, Range(0, 1), "stop after a guess that is less sure than this")

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that exits behind the last layer with matrices. Raises PlanError without weights that fit."""
        if self.weights is None:
            raise PlanError("m2r2 needs the matrices that speed up its residuals: m2r2(weights='fast.safetensors')")
        pairs = pairs_of(Weights.load(self.weights))
        assert turn.skim is not None
        skim = turn.skim()
        if not 0 < len(pairs) < skim.layers:
            raise PlanError(
                f"m2r2 was given matrices for {len(pairs)} layers, and this model has {skim.layers}; give those of "
                f"'layers.0' up to the exit, at most layer {skim.layers - 2}"
            )
        return _Exit(self, skim, pairs)


class _Exit:
    def __init__(self, options: M2R2, skim: Skimmer, pairs: list[tuple[Tensor, Tensor]]) -> None:
        self.options, self.skim, self.pairs = options, skim, pairs
        rest = range(len(pairs), skim.layers)
        self.skip = frozenset((i, part) for i in rest for part in ("attention", "mlp"))

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> a chain; rows that stop earlier have no guess further on."""
        token, tokens = ids[:, -1:], [ids[:, :0]]
        going = torch.ones_like(token, dtype=torch.bool)
        for _ in range(min(self.options.tokens, limit)):
            best = self.skim.read(token, self.skip, self._bend)[:, -1].softmax(-1).max(-1, keepdim=True)
            token = best.indices
            tokens.append(torch.where(going, token, -1))
            going = going & (best.values >= self.options.stop)
            if not bool(going.any()):
                break
        self.skim.forget()
        return Draft(torch.cat(tokens, 1))

    def _bend(self, states: list[Tensor]) -> Tensor:
        if self.pairs[0][0].shape[1] != states[0].shape[-1]:
            raise PlanError(
                f"the matrices given to m2r2 are {self.pairs[0][0].shape[1]} wide and this model {states[0].shape[-1]}"
            )
        return accelerate(states, self.pairs)

    def learn(self, outcome: Outcome) -> None:
        """Nothing to learn."""
