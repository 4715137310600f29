"""AdaBlock: a block ends where a semantic step ends, at a delimiter that the model already sees coming.

Lu et al., "AdaBlock-dLLM: Semantic-Aware Diffusion LLM Inference via Adaptive Block Size", 2025.
https://arxiv.org/abs/2509.26432

At the start of a block, one full forward predicts what follows. Of the predicted delimiters (a newline, a full stop)
within a window the most confident one, if it reaches ``delimiter_confidence``, is the last position of the block; else
the block has its usual length. Inside a block the threshold rule fills, beginning with that same forward.

Blocks of different rows end at different places, so rows are decoded one after the other.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ...errors import PlanError
from ...method import Many, Range, method, option
from .._schedule import Block, Chooser, Look, Stateless, at_least_the_best


@method(
    title="AdaBlock-dLLM: Semantic-Aware Diffusion LLM Inference via Adaptive Block Size",
    url="https://arxiv.org/abs/2509.26432",
    systems=("S113",),
    needs=(),
    cost="between one forward a block and one a token",
    vectors=("adablock_dllm",),
    aliases=("adablock_dllm",),
)
class AdaBlock(Stateless):
    """Blocks that end at delimiters."""

    sizes: ClassVar[bool] = True

    confidence: float = option(0.9, Range(0, 1), "probability from which a token is filled")
    delimiters: tuple[int, ...] | None = option(None, Many(Range(0, kind=int)), "token ids a block may end with")
    delimiter_confidence: float = option(0.3, Range(0), "probability from which a delimiter ends a block")
    share: float = option(0.25, Range(0, 1, open_low=True), "of the generated length, where delimiters are sought")

    def begin(self, block: Block) -> Chooser:
        """It remembers nothing. Raises PlanError if it was not told what a delimiter is."""
        if self.delimiters is None:
            raise PlanError(
                "adablock needs to know where a step may end: write adablock(delimiters=[...]) with the ids of the "
                "newline and, if you like, of the full stop in your tokenizer"
            )
        return self

    def window(self, length: int, remaining: int) -> int:
        """A share of the whole length."""
        return min(int(self.share * length), remaining)

    def size(self, tokens: Tensor, confidence: Tensor, block: int) -> int:
        """tokens, confidence (n,) of the window -> the length of the block."""
        wanted = torch.tensor(self.delimiters or (), device=tokens.device)
        score = confidence.masked_fill(~torch.isin(tokens, wanted), -torch.inf)
        if not len(score) or float(score.max()) < self.delimiter_confidence:
            return block
        return int(score.argmax()) + 1

    def fill(self, look: Look) -> Tensor:
        """(B, n) bool."""
        return at_least_the_best(look.confidence >= self.confidence, look)
