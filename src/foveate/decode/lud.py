"""LUD: placeholders behind the text are answered with the words to come; those that are sure form a lexical unit.

Sun et al., "Decoding at the Speed of Thought: Harnessing Parallel Decoding of Lexical Units for LLMs", LREC-COLING
2024. https://arxiv.org/abs/2405.15208

A model that was tuned for it answers a row of one placeholder token with one word each. As many of these as are surer
than ``alpha``, from the first on, are a unit and go into the text together; where none is sure, one word at a time is
written. The network is the model's own, and so is the placeholder: an id of its vocabulary (``token``).

By default the unit is checked by the forward that asks for the next one, so the words stay the model's; behind a unit
that is not right, placeholders are asked again. ``check=False`` takes units as they are, as the paper does: LOSSY, and
for greedy calls only. A model that was not tuned answers placeholders with little sense; it then drafts in vain, and is
switched off as every drafter is. The authors' code could not be reached, so this follows the paper alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import PlanError
from ..method import OneOf, Range, method, option
from ._drafter import Draft, Drafter, Outcome, Turn


@method(
    title="Decoding at the Speed of Thought: Harnessing Parallel Decoding of Lexical Units for LLMs",
    url="https://arxiv.org/abs/2405.15208",
    systems=("S116",),
    needs=(),
    training="the model, to answer placeholders (it runs without, and then drafts in vain)",
    cost="`ahead` tokens more in each forward of the target",
)
class LUD:
    """Units of words that placeholders are answered with."""

    token: int = option(0, Range(0, kind=int), "id of the placeholder that the model was tuned with")
    ahead: int = option(4, Range(1, kind=int), "placeholders behind the text")
    alpha: float = option(0.9, Range(0, 1), "words surer than this are part of a unit")
    check: bool = option(True, OneOf((True, False)), "check units; False: take them as they are (lossy)")

    def begin(self, turn: Turn) -> Drafter:
        """A drafter. Raises PlanError for an id outside of the vocabulary, or unchecked units while sampling."""
        if self.token >= turn.vocabulary:
            raise PlanError(f"lud's placeholder is token {self.token}, and this model knows 0 to {turn.vocabulary - 1}")
        if turn.sample and not self.check:
            raise PlanError(
                "lud(check=False) takes its likeliest words; sample with check=True, or use do_sample=False"
            )
        return _Units(self)


class _Units:
    """Attributes: unit: (B, u) the words that are to come, -1 where a row is not sure."""

    def __init__(self, options: LUD) -> None:
        self.options = options
        self.unit: Tensor | None = None
        self.sent = 0  # words of the unit in the last draft

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> the unit, and placeholders behind it as far as there is room."""
        unit = ids[:, :0] if self.unit is None or len(self.unit) != len(ids) else self.unit[:, :limit]
        self.sent = unit.shape[1]
        behind = ids.new_full((len(ids), min(self.options.ahead, limit - self.sent)), self.options.token)
        tokens = torch.cat([unit, behind], 1)
        if self.options.check:
            return Draft(tokens)
        return Draft(tokens, sure=torch.cat([unit >= 0, torch.zeros_like(behind, dtype=torch.bool)], 1))

    def learn(self, outcome: Outcome) -> None:
        """Take what the placeholders behind the text were answered with, if the unit before them stands."""
        self.unit, sent = None, self.sent
        self.sent = 0
        if outcome.read.shape[1] <= sent + 1 or outcome.kept != sent:
            return
        best = outcome.logits[:, sent + 1 :].softmax(-1).max(-1)
        sure = (best.values > self.options.alpha).long().cumprod(1).bool()
        width = int(sure.sum(1).max())
        self.unit = torch.where(sure, best.indices, -1)[:, :width]
