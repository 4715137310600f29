"""VTW: withdraw all visual tokens in the middle of the LLM; by then the text has taken in what it needs.

Lin et al., "Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for Rapid Inference", AAAI 2025.
https://arxiv.org/abs/2405.05803

Before layer K every visual token leaves. K is found once for a model, on a few samples, by :func:`find_layer`: the
first layer whose withdrawal hardly changes what the model says next. The text keeps its positions; the authors' other
mode, which counts them anew, is not offered.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..method import Range, method, option
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for Rapid Inference",
    url="https://arxiv.org/abs/2405.05803",
    cost="none",
    vectors=("vtw",),
    exempt={"few_tokens": "every visual token is withdrawn, however few there are"},
)
class VTW:
    """Withdrawal of all visual tokens."""

    layer: int | None = option(None, Range(1, kind=int), "withdraw before this layer (0-based); default: at half depth")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before one layer."""
        return (max(1, layers // 2) if self.layer is None else self.layer,)

    def reduce(self, tokens: Tokens) -> Reduction:
        """Nothing is kept."""
        return Reduction.from_mask(torch.zeros(tokens.x.shape[:2], dtype=torch.bool, device=tokens.x.device))


def divergence(full: Tensor, withdrawn: Tensor) -> Tensor:
    """KL(withdrawn || full) of next-token logits, mean over samples. full (S, V), withdrawn (K, S, V) -> (K,)."""
    p, q = withdrawn.float().log_softmax(-1), full.float().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean(-1)


def find_layer(full: Tensor, withdrawn: Tensor, eta: float = 0.003, first: int = 5) -> int:
    """The first layer whose withdrawal costs at most ``eta``.

    Args:
        full: (S, V) logits at the last position of S prompts, nothing withdrawn.
        withdrawn: (K, S, V) the same with all visual tokens withdrawn before layer first, first + 1, ...
        eta: largest mean divergence allowed; the authors take 0.003 for a model of 7B and 0.0005 for one of 13B.

    Raises:
        InputError: no layer is good enough.
    """
    good = (divergence(full, withdrawn) <= eta).nonzero()
    if not len(good):
        raise InputError(
            f"no layer from {first} on can be withdrawn at a divergence of {eta}; allow more, or go deeper"
        )
    return first + int(good[0])
