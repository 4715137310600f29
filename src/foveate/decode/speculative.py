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

import torch
from torch import Tensor

from ..errors import PlanError
from ..method import OneOf, Range, method, option
from ..parts.verify import draw
from ._drafter import Draft, Drafter, Outcome, Reader, Turn


class Loaded:
    """A loaded model as an option's value: compared by identity, shown by its class."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __repr__(self) -> str:
        return f"<loaded {type(self.model).__name__}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loaded) and self.model is other.model

    def __hash__(self) -> int:
        return id(self.model)


class PathOrModel:
    """A path or name to load a model from, or a loaded model."""

    def fits(self, value: Any) -> bool:
        if isinstance(value, str):
            return bool(value.strip())
        return isinstance(value, Loaded) or hasattr(value, "generate")

    def __str__(self) -> str:
        return "the path or name of a model, or a loaded model that generates"

    def bad(self) -> list[Any]:
        return [3, "", True]


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
        if self.draft is not None and not isinstance(self.draft, str | Loaded):
            object.__setattr__(self, "draft", Loaded(self.draft))

    def second_model(self) -> Any:
        """The path or the loaded draft model. Raises PlanError if none was given."""
        if self.draft is None:
            raise PlanError(
                "speculative needs a draft model: write speculative(draft='path/or/name'), or give "
                "Speculative(draft=model) from Python; without one, prompt_lookup drafts from the text itself"
            )
        return self.draft.model if isinstance(self.draft, Loaded) else self.draft

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that reads along with the draft model."""
        if turn.reader is None:
            raise PlanError("speculative needs a reader of its draft model; this turn has none")
        return _SmallModel(self, turn, turn.reader)


class _SmallModel:
    """Draws one token after another from the draft model."""

    def __init__(self, options: Speculative, turn: Turn, reader: Reader) -> None:
        self.options, self.turn, self.reader = options, turn, reader
        self.length = options.tokens
        self.settled = self.drafted = 0

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> tokens (B, gamma) and, when sampling, the distributions (B, gamma, V) they were drawn from."""
        self.settled, self.drafted = ids.shape[1], min(self.length, limit)
        text, tokens, probs = ids, [], []
        for _ in range(self.drafted):
            scores = self.turn.score(text, self.reader.read(text[:, self.reader.length :])[:, -1])
            if self.turn.sample:
                probs.append(scores.softmax(-1))
                token = draw(probs[-1], torch.rand(scores.shape[0], device=scores.device))
            else:
                token = scores.argmax(-1)
            tokens.append(token)
            text = torch.cat([text, token[:, None]], 1)
        return Draft(torch.stack(tokens, 1), torch.stack(probs, 1) if probs else None, self.options.weight)

    def learn(self, outcome: Outcome) -> None:
        """Forget the drafted tokens that did not stay (the last one was never read); adapt the length.

        One settled token is always left to read: it gives the logits that the next draft starts from.
        """
        if self.drafted == 0:  # the prefill
            return
        agreed = min(self.settled + min(outcome.kept, self.drafted - 1), outcome.ids.shape[1] - 1)
        self.reader.forget(self.reader.length - agreed)
        if self.options.adaptive:
            whole = outcome.kept == self.drafted
            self.length = min(self.length + 2, 4 * self.options.tokens) if whole else max(1, self.length - 1)
        self.drafted = 0
