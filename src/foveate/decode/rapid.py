"""RAPID: the draft model reads only the parts of a long prompt that speak of its question.

Chen et al., "Long-Context Inference with Retrieval-Augmented Speculative Decoding", ICML 2025.
https://arxiv.org/abs/2502.20330

Over a long prompt the target is slow because of its cache, not its weights. So the drafter, which may be the very same
model, reads a few chunks of the prompt, found by how much they resemble its end, and drafts over a short cache; the
target, which has read everything, checks. Chunks are compared by the mean of their input embeddings (the authors take
an embedding model), no model besides the target is needed, and the output is the target's.

With ``margin`` > 0 the target is moved towards the drafter where the drafter, undistracted, is surer (their
"retrieval-augmented target"): that is LOSSY, acts only while sampling, and is off by default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..method import Range, method, option
from ..parts.retrieve import mean_embeddings, retrieve
from ..parts.verify import Verdict
from ..parts.verify_enriched import accept_enriched
from ._drafter import ITSELF, Draft, Drafter, Turn
from ._second import PathOrModel, SmallModel, found, keep, reader_of


@method(
    title="Long-Context Inference with Retrieval-Augmented Speculative Decoding",
    url="https://arxiv.org/abs/2502.20330",
    systems=("S106",),
    needs=(),
    cost="one forward of the drafter over a short context for each drafted token",
    vectors=("rapid",),
)
class Rapid:
    """Drafts over a shortened prompt."""

    draft: Any = option(None, PathOrModel(), "the draft model; None is the target itself, with a cache of its own")
    tokens: int = option(5, Range(1, kind=int), "how many tokens to draft")
    chunk: int = option(64, Range(1, kind=int), "tokens in a chunk")
    top: int = option(16, Range(1, kind=int), "chunks to read, at most")
    threshold: float = option(0.0, Range(-1, 1), "chunks that resemble the question less are not read")
    question: int = option(64, Range(1, kind=int), "tokens at the end of the prompt that are always read, and compared")
    margin: float = option(0.0, Range(0), "how far the target is moved towards the drafter; above 0 is lossy")
    alpha: float = option(0.1, Range(0, 1), "with a margin: only at tokens the drafter gives this share of its best")

    def __post_init__(self) -> None:
        keep(self)

    def second_model(self) -> Any:
        """The draft model, or the target itself."""
        return ITSELF if self.draft is None else found(self)

    def draft_prompt(self, ids: Tensor, real: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """Which tokens of ids (B, n) the drafter reads: the chunks found, and the end; (B, n) bool."""
        rows = [self._chunks(row[mask], embed) for row, mask in zip(ids, real)]
        keep = torch.zeros_like(real)
        for out, mask, kept in zip(keep, real, rows):
            out[mask] = kept
        return keep

    def _chunks(self, ids: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        n = len(ids)
        keep = torch.arange(n, device=ids.device) >= n - self.question
        before = n - self.question
        if before <= self.chunk * self.top:
            return torch.ones_like(keep)
        x = embed(ids).float()
        means = mean_embeddings(x[:before], self.chunk)
        asked = x[before:].mean(0) - x[:before].mean(0)
        found = retrieve(means, asked / asked.norm().clamp(min=1e-12), self.top, self.threshold)
        return keep | (torch.isin(torch.arange(n, device=ids.device) // self.chunk, found) & ~keep)

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that has read the shorter prompt."""
        return _Short(self, turn)


class _Short(SmallModel):
    def __init__(self, options: Rapid, turn: Turn) -> None:
        super().__init__(turn, reader_of(options, turn), options.tokens)
        self.options = options

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """As a small model drafts; with a margin, its own rule of acceptance goes with it."""
        made, o = super().draft(ids, limit), self.options
        if o.margin == 0 or self.last is None:
            return made
        q = self.last

        def rule(target: Tensor, drafted: Tensor, uniform: Tensor, last: Tensor) -> Verdict:
            return accept_enriched(target, q, drafted, uniform, last, o.margin, o.alpha)

        return Draft(made.tokens, made.probs, rule=rule)
