"""QuoTA (frames): stretches of the video get frames by how much they have to do with the question.

Luo et al., "QuoTA: Query-oriented Token Assignment via CoT Query Decouple for Long Video Comprehension", AAAI 2026.
https://arxiv.org/abs/2503.08689

QuoTA scores every frame against the question and divides the budget in proportion to a power of the scores. Here the
budget is frames: the video is cut into equal stretches, a stretch claims the sum of its frames' scores, and gives its
best frames. No stretch is lost that has anything to do with the question. Dividing tokens instead is ``quota``.

Departures: the score is the similarity of frame and question as a chance, not the answer of a second model. The split
of the question that the authors make by a chain of thought is :func:`foveate.questions.decompose`.
"""

from __future__ import annotations

import torch

from ..method import Range, method, option
from ..parts.frame_relevance import chances
from ..parts.quota import share_out
from ..parts.signals import likeness
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="QuoTA: Query-oriented Token Assignment via CoT Query Decouple for Long Video Comprehension",
    url="https://arxiv.org/abs/2503.08689",
    systems=("S043",),
    needs=("image_embeds|features", "text_embeds|text"),
    cost="one product of frames and text",
)
class QuoTAFrames:
    """Frames of stretches by relevance."""

    frames: int = option(16, Range(1, kind=int), "how many frames to choose, at most those there are")
    stretches: int = option(8, Range(1, kind=int), "how many equal parts of the video share them")
    power: float = option(2.0, Range(0), "of the scores that frames are divided by; 0 gives all stretches the same")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.image_embeds (B, T, C) and text_embeds (B, M, C), or x and text -> selection of frames."""
        score = likeness(tokens)
        chance = chances(score, torch.ones_like(score, dtype=torch.bool)) ** self.power
        parts = min(self.stretches, max(1, tokens.n))
        group = (torch.arange(tokens.n, device=score.device) * parts // max(1, tokens.n)).expand(score.shape)
        claim = score.new_zeros(len(score), parts).scatter_add(1, group, chance).clamp(min=1e-9)
        return Reduction.from_mask(share_out(score, group, claim, min(self.frames, tokens.n)))
