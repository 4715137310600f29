"""What a method of the stage decode is: it guesses the next tokens, and one forward of the target checks them all.

A method is one file: a class decorated with ``@method`` whose ``begin(turn)`` returns a :class:`Drafter` for one call
of ``generate``. The site does the rest (prefill, verification, the cache, stopping), so a drafter cannot change the
answer: greedy output stays token-identical, and sampling keeps the target's distribution.

    @method(title="...", url="...", needs=())
    class Echo:
        "Guess that the last token repeats."

        def begin(self, turn: Turn) -> Drafter:
            return self

        def draft(self, ids: Tensor, limit: int) -> Draft:
            return Draft(ids[:, -1:].repeat(1, min(3, limit)))

        def learn(self, outcome: Outcome) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..method import Method


@dataclass(frozen=True)
class Draft:
    """Guesses for the tokens that follow.

    Attributes:
        tokens: (B, gamma) int64, -1 for no guess; a shorter guess of one row ends in -1. gamma may be 0.
        probs: (B, gamma, V) the distributions the tokens were drawn from; None if nothing was drawn.
        weight: see :func:`foveate.parts.verify.accept`; None is exact.
    """

    tokens: Tensor
    probs: Tensor | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What the target made of a draft.

    Attributes:
        ids: (B, n) the text so far, the tokens just settled included.
        read: (B, gamma + 1) the tokens the target has just read: the last settled one, then the draft.
        logits: (B, gamma + 1, V) the target's raw logits after each of them.
        kept: how many drafted tokens stayed (in every row). Usually the target's own token follows them in ids; where
            a row finished inside the draft, none does.
    """

    ids: Tensor
    read: Tensor
    logits: Tensor
    kept: int


class Reader(Protocol):
    """A second model in the middle of reading the same text."""

    @property
    def length(self) -> int:
        """Tokens read so far, the prompt's included."""
        ...

    def read(self, tokens: Tensor) -> Tensor:
        """Read tokens (B, k) on, k >= 1; returns logits (B, k, V) after each of them, float32."""
        ...

    def forget(self, k: int) -> None:
        """Unread the last k tokens. To be called (with 0, if need be) before reading on after a draft."""
        ...


@dataclass(frozen=True)
class Turn:
    """One call of ``generate``, as a drafter may see it.

    Attributes:
        sample: whether tokens are drawn (``do_sample``) rather than chosen.
        score: (ids (B, n), logits (B, V)) -> (B, V): the logits as the call's logits processors leave them.
        reader: the model that the method's ``second_model`` named, already past the prompt; None if it names none.
    """

    sample: bool
    score: Callable[[Tensor, Tensor], Tensor]
    reader: Reader | None = None


class Drafter(Protocol):
    """Guesses tokens during one call of ``generate``."""

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """At most ``limit`` guesses (limit >= 1) for what follows ids (B, n), left-padded."""
        ...

    def learn(self, outcome: Outcome) -> None:
        """Told after every forward of the target, the prefill included (which read no draft)."""
        ...


class DecodeMethod(Method, Protocol):
    """A method of the stage decode. It may have ``second_model() -> path or loaded model`` too, for ``turn.reader``."""

    def begin(self, turn: Turn) -> Drafter: ...


def second_model(method: Any) -> Any:
    """The second model a method asks for (a path or a loaded model), or None."""
    ask = getattr(method, "second_model", None)
    return ask() if ask is not None else None
