"""B-VLLM (frames): frames that fit the question, none of them twice.

Lu et al., "B-VLLM: A Vision Large Language Model with Balanced Spatio-Temporal Tokens", ICCV 2025.
https://arxiv.org/abs/2412.09919

B-VLLM selects frames by the text before anything else, and folds frames into earlier ones they resemble. Here both
decide which frames are decoded at full size: among frames that repeat no earlier one, those most like the question's
words; repetitions come last. Folding tokens of frames, and merging inside them, is ``bvllm``.

Departures: the authors learn the selection (a Q-Former that reads frames and text); here the model's own embeddings of
frames and words are compared.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from ..method import Range, method, option
from ..parts.select import top
from ..parts.signals import likeness
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="B-VLLM: A Vision Large Language Model with Balanced Spatio-Temporal Tokens",
    url="https://arxiv.org/abs/2412.09919",
    systems=("S032",),
    needs=("image_embeds|features", "text_embeds|text"),
    training="the authors' selection (this one runs without)",
    cost="one frames x frames similarity, one product of frames and text",
)
class BVLLMFrames:
    """Frames by the question, without repetitions."""

    frames: int = option(16, Range(1, kind=int), "how many frames to choose, at most those there are")
    threshold: float = option(0.95, Range(0, 1), "a frame repeats an earlier one when (cosine + 1) / 2 is above it")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.image_embeds (B, T, C) and text_embeds (B, M, C), or x and text -> selection of frames."""
        unit = normalize(tokens.need("image_embeds", "x").float(), dim=-1)
        earlier = torch.ones(tokens.n, tokens.n, dtype=torch.bool, device=unit.device).tril(-1)
        repeats = ((((unit @ unit.mT) + 1) / 2 > self.threshold) & earlier).any(-1)
        score = likeness(tokens) - 4.0 * repeats  # a likeness is from -1 to 1
        return Reduction.take(top(score, min(self.frames, tokens.n)), tokens.n)
