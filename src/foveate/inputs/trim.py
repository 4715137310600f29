"""TRIM: keep the visual tokens that a dual encoder relates to the question, and one mean of all others.

Song et al., "Less is More: A Simple yet Effective Token Reduction Method for Efficient Multi-modal LLMs", COLING 2025.
https://arxiv.org/abs/2409.10994

Each token is scored by a softmax, over the tokens, of its similarity with the question. How many stay follows from the
scores: those above the third quartile by 1.5 interquartile ranges. The rest is averaged into one token, so that the
image as a whole is not lost.

Departures: the authors' code takes a bare dot product (the paper: a cosine), ranks tokens by how *little* they resemble
the text and draws the quartiles over the whole batch (``variant="code"``). In a dual encoder's space the sign of the
code is kept, for there it is what works; a model without one compares the LLM's own embeddings, where like is like. The
mean stands last in the code, here where the last token it stands for was; ``keep`` counts it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, method, option
from ..parts.budget import budget
from ..parts.outliers import upper_outliers
from ..parts.select import top
from ..parts.signals import relevance, shared_space
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Less is More: A Simple yet Effective Token Reduction Method for Efficient Multi-modal LLMs",
    url="https://arxiv.org/abs/2409.10994",
    needs=("image_embeds|features", "text_embeds|text"),
    cost="one product of tokens and text, a sort of n",
    vectors=("trim",),
)
class TRIM:
    """Selection by similarity with the text, and a summary."""

    keep: float | int | None = option(
        None, Keep(), "share (float) or number (int) of tokens left, the summary included; default: the outliers decide"
    )
    variant: str = option("paper", OneOf(("paper", "code")), "how similarity is measured; see above")

    def score(self, tokens: Tokens) -> Tensor:
        """tokens.image_embeds (B, n, C) and text_embeds (B, M, C), or x and text -> (B, n), higher is kept."""
        if self.variant == "paper":
            return relevance(tokens).softmax(-1)
        x, text, dual = shared_space(tokens)
        like = (x @ text.mT).mean(-1)
        return (-like if dual else like).softmax(-1)

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`score` -> the best and one mean."""
        score, n = self.score(tokens), tokens.n
        if self.keep is not None:
            counts = [budget(self.keep, n) - 1] * len(score)
        elif self.variant == "code":
            share = int(upper_outliers(score.reshape(1, -1)).sum()) / score.numel()
            counts = [int(n * share)] * len(score)
        else:
            counts = upper_outliers(score).sum(-1).tolist()
        return Reduction.stack([_summed(row, k) for row, k in zip(score.split(1), counts)])


def _summed(score: Tensor, k: int) -> Reduction:
    """The k best and the mean of the rest. score (1, n)."""
    n = score.shape[1]
    if k >= n - 1:  # one token stands for itself
        return Reduction.identity(1, n, score.device)
    kept = top(score, k)
    into = torch.full_like(score, -1, dtype=torch.long).scatter(1, kept, kept)
    last = (into < 0).nonzero()[-1, 1]
    return Reduction.merge(torch.where(into < 0, last, into))
