"""Given: keep the visual tokens with the highest scores that you hand over.

Lei et al., "Generic Token Compression in Multimodal Large Language Models from an Explainability Perspective", 2025.
https://arxiv.org/abs/2506.01097

The paper shows that relevance maps of explainability methods tell before the LLM starts which visual tokens a question
needs. ``foveate.attribution`` computes such maps. Their values, as plain numbers, are an option here, so any
attribution can drive a plan and the plan is still text. There is one score for each visual token of the item (image or
video) that the plan meets; without scores all tokens weigh the same, and the leftmost stay.
"""

from __future__ import annotations

import torch

from ..errors import InputError
from ..method import Keep, Many, Range, method, option
from ..parts.budget import budget
from ..parts.select import top
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Generic Token Compression in Multimodal Large Language Models from an Explainability Perspective",
    url="https://arxiv.org/abs/2506.01097",
    systems=("S003",),
    cost="a sort of n",
)
class Given:
    """Selection by scores computed elsewhere."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of visual tokens to keep")
    scores: tuple[float, ...] = option((), Many(Range()), "one number for each visual token; the highest stay")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D) -> selection of m, the same in every row."""
        if self.scores and len(self.scores) != tokens.n:
            raise InputError(
                f"'scores' of given holds {len(self.scores)} numbers, and there are {tokens.n} visual tokens"
            )
        score = torch.tensor(self.scores or (0.0,) * tokens.n, device=tokens.x.device)
        return Reduction.take(top(score.expand(tokens.x.shape[0], -1), budget(self.keep, tokens.n)), tokens.n)
