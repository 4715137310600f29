"""Speculative decoding: a small model drafts, the large one checks the whole draft in one forward.

Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", ICML 2023.
https://arxiv.org/abs/2211.17192
Chen et al., "Accelerating Large Language Model Decoding with Speculative Sampling", 2023, arXiv 2302.01318, found the
same rule independently.

Decoding reads all weights for every token, so checking several tokens costs hardly more than making one. Greedy output
is token-identical to the large model's; when sampling, the acceptance rule keeps its distribution exactly. The draft
model needs the same vocabulary; it sees the prompt's images too if it takes them.

``adaptive`` drafts two more tokens after a draft that stayed whole, one less after any other. ``weight`` < 1 accepts
against a mixture with the draft's distribution (arXiv 2604.07622): more stays, and what is sampled is no longer exact.
"""

from __future__ import annotations

from typing import Any

from ..method import OneOf, Range, method, option
from ._drafter import Drafter, Reader, Turn
from ._second import PathOrModel, SmallModel, found, keep, reader_of


@method(
    title="Fast Inference from Transformers via Speculative Decoding",
    url="https://arxiv.org/abs/2211.17192",
    needs=(),
    cost="one forward of the draft model for each drafted token",
    vectors=("speculative_sampling",),
    aliases=("speculative_sampling",),
)
class Speculative:
    """Drafts from a small model."""

    draft: Any = option(None, PathOrModel(), "the draft model: a path or name, or (from Python) a loaded model")
    tokens: int = option(5, Range(1, kind=int), "how many tokens to draft, at first if adaptive")
    adaptive: bool = option(False, OneOf((False, True)), "longer drafts while they stay whole, else shorter")
    weight: float | None = option(None, Range(0, 1, open_low=True), "share of the target in the test; None is exact")

    def __post_init__(self) -> None:
        keep(self)

    def second_model(self) -> Any:
        """The path or the loaded draft model. Raises PlanError if none was given."""
        return found(self)

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that reads along with the draft model."""
        reader = reader_of(self, turn)
        return _Adaptive(self, turn, reader) if self.adaptive else SmallModel(turn, reader, self.tokens, self.weight)


class _Adaptive(SmallModel):
    """Longer drafts while they stay whole, else shorter."""

    def __init__(self, options: Speculative, turn: Turn, reader: Reader) -> None:
        super().__init__(turn, reader, options.tokens, options.weight)
        self.most = 4 * options.tokens

    def adapt(self, kept: int, drafted: int) -> None:
        """Two more after a draft that stayed whole, one less after any other."""
        self.length = min(self.length + 2, self.most) if kept == drafted else max(1, self.length - 1)
