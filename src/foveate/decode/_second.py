"""What methods share that draft with a second model: the option that names it, and drawing one token after another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import PlanError
from ..parts.verify import draw
from ._drafter import Draft, Outcome, Reader, Turn


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


def keep(method: Any) -> None:
    """A loaded model given as ``draft`` becomes a value that can be compared and shown."""
    if method.draft is not None and not isinstance(method.draft, str | Loaded):
        object.__setattr__(method, "draft", Loaded(method.draft))


def found(method: Any) -> Any:
    """The path or the loaded draft model. Raises PlanError if none was given."""
    if method.draft is None:
        name, cls = method.name, type(method).__name__
        raise PlanError(
            f"{name} needs a draft model: write {name}(draft='path/or/name'), or give {cls}(draft=model) from Python; "
            "without one, prompt_lookup and token_recycling draft from the text itself"
        )
    return method.draft.model if isinstance(method.draft, Loaded) else method.draft


def reader_of(method: Any, turn: Turn) -> Reader:
    """The reader of the draft model. Raises PlanError where the turn has none."""
    if turn.reader is None:
        raise PlanError(f"{method.name} needs a reader of its draft model; this turn has none")
    return turn.reader


class SmallModel:
    """Draws one token after another from the draft model.

    Attributes:
        length: guesses in the next draft; ``adapt`` may change it after each.
        last: (B, gamma, V) the draft model's scores of the last draft, or None.
    """

    def __init__(self, turn: Turn, reader: Reader, tokens: int, weight: float | None = None) -> None:
        self.turn, self.reader, self.weight = turn, reader, weight
        self.length = tokens
        self.settled = self.drafted = 0
        self.last: Tensor | None = None

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> tokens (B, gamma) and, when sampling, the distributions (B, gamma, V) they were drawn from."""
        self.settled, self.drafted = ids.shape[1], min(self.length, limit)
        text, tokens, scores = ids, [], []
        for _ in range(self.drafted):
            scores.append(self.turn.score(text, self.reader.read(text[:, self.reader.length :])[:, -1]))
            if self.turn.sample:
                token = draw(scores[-1].softmax(-1), torch.rand(len(ids), device=ids.device))
            else:
                token = scores[-1].argmax(-1)
            tokens.append(token)
            text = torch.cat([text, token[:, None]], 1)
        self.last = torch.stack(scores, 1)
        return Draft(torch.stack(tokens, 1), self.last.softmax(-1) if self.turn.sample else None, self.weight)

    def learn(self, outcome: Outcome) -> None:
        """Forget the drafted tokens that did not stay (the last one was never read); adapt the length.

        One settled token is always left to read: it gives the logits that the next draft starts from.
        """
        if self.drafted == 0:  # the prefill, or a forward without a draft
            return
        agreed = min(self.settled + min(outcome.kept, self.drafted - 1), outcome.ids.shape[1] - 1)
        self.reader.forget(self.reader.length - agreed)
        self.adapt(outcome.kept, self.drafted)
        self.drafted = 0

    def adapt(self, kept: int, drafted: int) -> None:
        """So many of the drafted tokens stayed."""
