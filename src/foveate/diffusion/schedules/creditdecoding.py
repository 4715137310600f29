"""CreditDecoding: a token that stayed the favourite over several forwards gains credit, and is filled earlier.

Wang et al., "CreditDecoding: Accelerating Parallel Decoding in Diffusion Large Language Models with Trace Credits",
2025. https://arxiv.org/abs/2510.06133

Every forward lets the credit of a block decay and adds, at each masked position, the favourite's probability to the
power ``gamma``. What is decided on are the logits plus ``alpha * log(1 + credit)``, by the threshold rule; candidates
within 1e-5 of the most confident one are filled with it.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ...method import Range, method, option
from .._schedule import Block, Chooser, Look, Stateless

NEAR = 1e-5


@method(
    title="CreditDecoding: Accelerating Parallel Decoding in Diffusion Large Language Models with Trace Credits",
    url="https://arxiv.org/abs/2510.06133",
    systems=("S117",),
    needs=(),
    cost="one number for each position of a block and each token of the vocabulary",
    vectors=("credit_decoding",),
    aliases=("credit_decoding",),
)
class CreditDecoding(Stateless):
    """Threshold decoding on logits raised by what earlier forwards said."""

    precise: ClassVar[bool] = False

    confidence: float = option(0.9, Range(0, 1), "probability from which a token is filled")
    alpha: float = option(0.65, Range(0), "weight of the credit; 0 is plain threshold decoding")
    gamma: float = option(0.2, Range(0), "power of the probability that is credited: below 1 helps the unsure")
    beta: float = option(0.8, Range(0, 1), "what is left of credit after a forward")

    def begin(self, block: Block) -> Chooser:
        """Credit starts anew with every block."""
        return _Ledger(self, block.mask_id)


class _Ledger:
    """The credit of one block, (B, n, V) float32."""

    def __init__(self, options: CreditDecoding, mask_id: int) -> None:
        self.options, self.mask_id = options, mask_id
        self.credit: Tensor | None = None

    def rescore(self, logits: Tensor, masked: Tensor) -> Tensor:
        """logits (B, n, V), masked (B, n) -> logits with credit."""
        given, options = logits.softmax(-1).max(-1, keepdim=True), self.options
        gained = given.values.pow(options.gamma).masked_fill(~masked[..., None], 0)
        n = logits.shape[1]  # a block may have become shorter: its text has ended
        before = torch.zeros_like(logits) if self.credit is None else self.credit[:, :n] * options.beta
        self.credit = before.scatter_add(-1, given.indices, gained)
        return logits + options.alpha * self.credit.log1p()

    def fill(self, look: Look) -> Tensor:
        """(B, n) bool. Positions where the mask itself is the favourite are no candidates."""
        score = look.candidates.masked_fill(look.tokens == self.mask_id, -torch.inf)
        top = score.max(-1, keepdim=True).values - NEAR
        return (score >= top.clamp(max=self.options.confidence)) & (score > -torch.inf)
