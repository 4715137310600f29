"""FLASH: the draft model sees visual tokens squeezed together, and could say several words a step.

Wang et al., "FLASH: Latent-Aware Semi-Autoregressive Speculative Decoding for Multimodal Tasks", 2025.
https://arxiv.org/abs/2505.12728

Visual tokens repeat themselves, so a drafter can do with a summary: here each square of ``side`` x ``side`` of them is
one, its mean. The target reads them all and checks every guess, so the answer does not change.

This is the idea without training. The paper trains rows that pool the image and a head that says ``k`` features of the
future at once: :func:`squeezed` and :func:`foveate.parts.semi_autoregressive.futures` compute both, for weights of
one's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..method import Range, method, option
from ..parts.draft_images import pooled
from ._drafter import Drafter, Turn
from ._second import PathOrModel, SmallModel, found, keep, reader_of


@method(
    title="FLASH: Latent-Aware Semi-Autoregressive Speculative Decoding for Multimodal Tasks",
    url="https://arxiv.org/abs/2505.12728",
    systems=("S100",),
    needs=(),
    cost="one forward of the draft model, over a shorter prompt, for each drafted token",
    vectors=("flash_sd",),
)
class FlashSD:
    """A draft model that sees pooled visual tokens."""

    draft: Any = option(None, PathOrModel(), "the draft model: a path or name, or (from Python) a loaded model")
    side: int = option(3, Range(1, kind=int), "side of the squares of visual tokens that the draft model sees as one")
    tokens: int = option(5, Range(1, kind=int), "how many tokens to draft")

    def __post_init__(self) -> None:
        keep(self)

    def second_model(self) -> Any:
        """The path or the loaded draft model. Raises PlanError if none was given."""
        return found(self)

    def draft_plan(self) -> str | None:
        """What the draft model reads the prompt with."""
        return f"gridpool(stride={self.side})" if self.side > 1 else None

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that reads along with the draft model."""
        return SmallModel(turn, reader_of(self, turn), self.tokens)


def squeezed(hidden: Tensor, embeds: Tensor, image: Tensor, rows: Tensor, fc: Tensor, bias: Tensor) -> Tensor:
    """The trained head's input, at the length it came in (published rule).

    Features in front of the image stay; behind it they are fc([embed, feature]); the image's first places hold what
    the learned rows pool from it, its other places are zero.

    hidden, embeds (n, D), image (n,) bool, rows (nq, D), fc (D, 2 D), bias (D,) -> (n, D) float32.
    """
    out = torch.zeros_like(hidden, dtype=torch.float32)
    at = image.nonzero()[:, 0]
    first, last = (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)
    out[:first] = hidden[:first].float()
    out[last:] = linear(torch.cat([embeds[last:].float(), hidden[last:].float()], -1), fc, bias)
    if len(at):
        out[at[: len(rows)]] = pooled(hidden[at], rows)[: len(at)]
    return out
