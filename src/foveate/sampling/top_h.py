"""Top-H: keep the most likely tokens as long as their entropy stays below a share of the whole distribution's.

"Top-H Decoding: Adapting the Creativity and Coherence with Bounded Entropy in Text Generation", NeurIPS 2025.
https://arxiv.org/abs/2509.02510

Where the model is sure few tokens stay, where it is not many do, also at high temperatures. Tokens are added in order
of their probability until the entropy of what is kept, renormalised, would pass ``alpha`` times that of the whole
distribution.

Departures: ``variant="code"`` is the authors' code, which bounds a partial sum of -p log p without renormalising;
``variant="transformers"`` is the rule of transformers' own ``top_h``, the same sum inside the renormalised 100 best.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ..errors import OptionError

VARIANTS = ("paper", "code", "transformers")


class TopH(LogitsProcessor):  # type: ignore[misc]
    """Cuts the tail of each row's distribution.

    Args:
        alpha: share of the entropy that may be kept, in (0, 1].
        top_n: most tokens that are looked at. temperature: at which the decision is made; logits come back unscaled, so
            give the temperature of the sampling itself to ``generate`` as well.

    Raises:
        OptionError: a value out of range.
    """

    def __init__(self, alpha: float = 0.4, top_n: int = 100, temperature: float = 1.0, variant: str = "paper") -> None:
        if not 0 < alpha <= 1 or top_n < 1 or not temperature > 0 or variant not in VARIANTS:
            raise OptionError(
                f"top-H needs 0 < alpha <= 1, top_n >= 1, temperature > 0 and a variant of {', '.join(VARIANTS)}. "
                f"Got {alpha}, {top_n}, {temperature}, {variant!r}."
            )
        self.alpha, self.top_n, self.temperature, self.variant = alpha, top_n, temperature, variant

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores (B, V) -> the same, -inf for what is cut."""
        return scores.masked_fill(~self.kept(scores), -torch.inf)

    def kept(self, logits: Tensor) -> Tensor:
        """logits (B, V) -> (B, V) bool. The most likely token always stays; ties go by position."""
        scaled = logits.float() / self.temperature
        order = scaled.argsort(dim=-1, descending=True, stable=True)[:, : self.top_n]
        best = scaled.gather(-1, order)
        log_p = best.log_softmax(-1) if self.variant == "transformers" else best - scaled.logsumexp(-1, keepdim=True)
        terms = -torch.where(log_p > -torch.inf, log_p.exp() * log_p, 0.0)
        if self.variant == "paper":
            mass = log_p.exp().cumsum(-1)
            entropy = terms.cumsum(-1) / mass + mass.log()  # of the kept tokens, renormalised
            bound = self.alpha * torch.special.entr(scaled.softmax(-1)).sum(-1, keepdim=True)
        else:
            entropy, bound = terms.cumsum(-1), self.alpha * terms.sum(-1, keepdim=True)
        stays = (entropy <= bound).long().cumprod(-1).bool()
        stays[:, 0] = True
        return torch.zeros_like(scaled, dtype=torch.bool).scatter(-1, order, stays)
