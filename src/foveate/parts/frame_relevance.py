"""How much each frame has to do with the text."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..tokens import Tokens
from .film import Film
from .signals import shared_space


def frame_relevance(tokens: Tokens, film: Film) -> Tensor:
    """Mean over a frame's tokens of the best cosine with any piece of the text: (B, F) float32, 0 for empty frames.

    A text in a space of its own says nothing: all frames are equally (un)like it.
    """
    x, text, _ = shared_space(tokens)
    if x.shape[-1] != text.shape[-1]:
        return x.new_zeros(film.table.shape[:2])
    best = (normalize(x, dim=-1) @ normalize(text, dim=-1).mT).amax(-1)
    return film.means(best[..., None])[..., 0]


def chances(score: Tensor, there: Tensor) -> Tensor:
    """Scores (B, F) as chances in (0, 1): a sigmoid of how many deviations each lies above the mean of its row.

    there (B, F) bool: the frames that count. Where all score the same every chance is 1/2.
    """
    count = there.sum(-1, keepdim=True).clamp(min=1)
    centred = (score - (score * there).sum(-1, keepdim=True) / count) * there
    deviation = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    return torch.sigmoid(torch.where(deviation > 1e-6, centred / deviation.clamp(min=1e-6), 0.0))
