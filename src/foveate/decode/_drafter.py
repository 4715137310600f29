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
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ..method import Method
from ..parts.trees import Tree
from ..parts.verify import Verdict


@dataclass(frozen=True)
class Draft:
    """Guesses for the tokens that follow.

    Attributes:
        tokens: (B, gamma) int64, -1 for no guess; a shorter guess of one row ends in -1. gamma may be 0.
        probs: (B, gamma, V) the distributions the tokens were drawn from; None if nothing was drawn. Siblings of a
            tree are drawn from one distribution, without replacement.
        weight: see :func:`foveate.parts.verify.accept`; None is exact.
        parents: (gamma,) int64 for a tree, the same shape in every row: the guess that each follows, -1 for the text
            itself; a guess comes after the one it follows. None is a chain. Where trees cannot be read
            (``turn.trees`` is False) the branch of first children is.
        soft: (gamma,) int64 for a tree: which row of ``embeddings`` is read at a node in place of a token, -1 where a
            token is. Nodes without a token are read, so that they can be learned from, and never stay.
        embeddings: (P, D) learned ones.
        rule: another way to accept a chain when sampling, (the target's logits as the processors leave them
            (B, gamma + 1, V), tokens, uniform (B, gamma), last (B,)) -> Verdict; None is exact.
        sure: (B, gamma) bool, guesses of a chain that stay whatever the target says (lossy; greedy calls), or None.
    """

    tokens: Tensor
    probs: Tensor | None = None
    weight: float | None = None
    parents: Tensor | None = None
    soft: Tensor | None = None
    embeddings: Tensor | None = None
    rule: Callable[[Tensor, Tensor, Tensor, Tensor], Verdict] | None = None
    sure: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """What the target made of a draft.

    Attributes:
        ids: (B, n) the text so far, the tokens just settled included.
        read: (B, gamma + 1) the tokens the target has just read: the last settled one, then the draft.
        logits: (B, gamma + 1, V) the target's raw logits after each of them.
        kept: how many drafted tokens stayed (in every row). Usually the target's own token follows them in ids; where
            a row finished inside the draft, none does.
        path: (B, kept + 1) int64, which columns of ``read`` stand in the text now, the first one (0) included.
        hidden: (B, gamma + 1, D) what the target's head was given at each of them (after the prefill: at each token of
            the prompt, or of what is left of it); None unless the method has ``features = True``.
    """

    ids: Tensor
    read: Tensor
    logits: Tensor
    kept: int
    path: Tensor
    hidden: Tensor | None = None


class Reader(Protocol):
    """A second model in the middle of reading the same text."""

    @property
    def length(self) -> int:
        """Tokens read so far, the prompt's included."""
        ...

    def read(self, tokens: Tensor) -> Tensor:
        """Read tokens (B, k) on, k >= 1; returns logits (B, k, V) after each of them, float32."""
        ...

    def look(self, tokens: Tensor, tree: Tree) -> Tensor | None:
        """As :meth:`read`, (B, q) being the nodes of a tree, which are unread at once; None where that cannot be."""
        ...

    def forget(self, k: int) -> None:
        """Unread the last k tokens. To be called (with 0, if need be) before reading on after a draft."""
        ...


#: Sub-layers of a model: (0-based layer, "attention" or "mlp").
Skip = frozenset[tuple[int, str]]
#: Hidden states (B, k, D) before the first layer and after each that is left in -> what follows is given instead.
Bend = Callable[[list[Tensor]], Tensor]


class Skimmer(Protocol):
    """The target itself, reading ahead with parts of it left out."""

    @property
    def layers(self) -> int:
        """How many layers it has."""
        ...

    def read(self, tokens: Tensor, skip: Skip, bend: Bend | None = None) -> Tensor:
        """Read tokens (B, k) after the settled text, or after what was skimmed since :meth:`forget`; -> (B, k, V)
        logits, float32. The last settled token is the first one to be read. ``skip`` is the same until then; with
        ``bend`` it leaves out all layers from one on, and ``bend`` changes what comes out of the last before that."""
        ...

    def forget(self) -> None:
        """Unread everything. To be called before the draft is handed over."""
        ...


class Lens(Protocol):
    """A look between the target's layers."""

    def says(self, layer: int) -> Tensor:
        """(B, gamma + 1, V) logits, float32, after each token that was read last, were ``layer`` the last one."""
        ...


@dataclass(frozen=True)
class Turn:
    """One call of ``generate``, as a drafter may see it.

    Attributes:
        sample: whether tokens are drawn (``do_sample``) rather than chosen.
        score: (ids (B, n), logits (B, V)) -> (B, V): the logits as the call's logits processors leave them.
        reader: the model that the method's ``second_model`` named, already past the prompt; None if it names none.
        trees: whether trees can be verified here.
        vocabulary: how many tokens the target tells apart.
        skim: () -> the target reading with parts left out; raises UnsupportedCallError where it cannot.
        lens: () -> what the target would say after each layer, of what it reads from now on.
        prompt: (B, n) the prompt.
        words: (V, D) weights of the target's head, where the method has ``features = True``.
        memory: what the method wants to find again at the next call; it lives as long as the plan is on the model.
    """

    sample: bool
    score: Callable[[Tensor, Tensor], Tensor]
    reader: Reader | None = None
    trees: bool = False
    vocabulary: int = 0
    skim: Callable[[], Skimmer] | None = None
    lens: Callable[[], Lens] | None = None
    prompt: Tensor | None = None
    words: Tensor | None = None
    memory: dict[str, Any] = field(default_factory=dict)


class Drafter(Protocol):
    """Guesses tokens during one call of ``generate``."""

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """At most ``limit`` guesses (limit >= 1) for what follows ids (B, n), left-padded."""
        ...

    def learn(self, outcome: Outcome) -> None:
        """Told after every forward of the target, the prefill included (which read no draft)."""
        ...


class DecodeMethod(Method, Protocol):
    """A method of the stage decode.

    It may have ``second_model() -> path or loaded model`` too, for ``turn.reader``; ``draft_plan() -> plan or None``,
    what that model reads the prompt with; ``draft_prompt(ids (B, n), real (B, n) bool, embed) -> (B, n) bool``, which
    tokens of the prompt it reads, ``embed`` being the target's input embeddings, ids -> (..., D); ``trees = True``, to
    have trees verified; ``features = True``, to be told what the target's head was given; and ``reserved(layers) ->
    tuple``, the only layers that new tokens run through (lossy).
    """

    def begin(self, turn: Turn) -> Drafter: ...


#: What ``second_model`` returns where the target is to draft for itself, with a cache of its own.
ITSELF = object()


def second_model(method: Any) -> Any:
    """The second model a method asks for (a path, a loaded model or :data:`ITSELF`), or None."""
    ask = getattr(method, "second_model", None)
    return ask() if ask is not None else None
