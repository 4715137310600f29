"""PEARL: one guess is checked before a long draft is made, and long drafts go on only while they stay whole.

Liu et al., "PEARL: Parallel Speculative Decoding with Adaptive Draft Length", ICLR 2025.
https://arxiv.org/abs/2408.11850

Of a long draft all is wasted behind its first wrong guess. So two phases alternate. Pre-verify: only the first guess is
checked; where it is wrong, nothing else was spent. Post-verify: as soon as it is right, whole drafts of ``tokens``
follow, until one of them breaks.

The authors run draft and target at the same time on two devices, where the target checks while the next guesses are
made; in one process there is no such overlap, and what is left is the schedule: drafts of one token while guesses
fail, of many while they hold. :func:`parallel` is the published schedule, rounds and all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..method import Range, method, option
from ._drafter import Drafter, Reader, Turn
from ._second import PathOrModel, SmallModel, found, keep, reader_of


@method(
    title="PEARL: Parallel Speculative Decoding with Adaptive Draft Length",
    url="https://arxiv.org/abs/2408.11850",
    systems=("S111",),
    needs=(),
    cost="one forward of the draft model for each drafted token",
    vectors=("pearl",),
)
class Pearl:
    """Short drafts while guesses fail, long ones while they hold."""

    draft: Any = option(None, PathOrModel(), "the draft model: a path or name, or (from Python) a loaded model")
    tokens: int = option(5, Range(2, kind=int), "guesses in a long draft")

    def __post_init__(self) -> None:
        keep(self)

    def second_model(self) -> Any:
        """The path or the loaded draft model. Raises PlanError if none was given."""
        return found(self)

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that reads along with the draft model."""
        return _Phased(turn, reader_of(self, turn), Phases(self.tokens))


class Phases:
    """Which phase it is. ``post``: after a first guess that was right."""

    def __init__(self, gamma: int) -> None:
        self.gamma, self.post = gamma, False

    @property
    def checks(self) -> int:
        """How many guesses the next forward of the target checks."""
        return self.gamma if self.post else 1

    def after(self, accepted: int) -> None:
        """So many of them were right."""
        self.post = accepted >= self.checks


class _Phased(SmallModel):
    def __init__(self, turn: Turn, reader: Reader, phases: Phases) -> None:
        super().__init__(turn, reader, phases.checks)
        self.phases = phases

    def adapt(self, kept: int, drafted: int) -> None:
        """The next phase."""
        self.phases.after(kept if drafted == self.phases.checks or kept < drafted else self.phases.checks)
        self.length = self.phases.checks


class Parallel(NamedTuple):
    """What the published schedule did: the text, forwards of target and draft model, guesses kept between two
    rejections. The text may end in guesses that were never checked."""

    text: list[int]
    target_forwards: int
    draft_forwards: int
    accepted: list[int]


Say = Callable[[Sequence[int]], int]


def parallel(target: Say, draft: Say, prompt: Sequence[int], gamma: int, new: int) -> Parallel:
    """Greedy decoding in rounds in which draft and target run at the same time.

    In each round the draft model says ``gamma`` more tokens after the text so far while the target reads that text; so
    the target can check what is unchecked in it and the first of the new tokens, not the others.

    Args:
        target, draft: what a model says after a text.
        new: stop once the text is so much longer than the prompt.
    """
    text, phases = list(prompt), Phases(gamma)
    rounds = since = 0
    accepted: list[int] = []
    while len(text) < len(prompt) + new:
        rounds += 1
        drafted: list[int] = []
        for _ in range(gamma):
            drafted.append(draft([*text, *drafted]))
        ahead, checks = [*text, drafted[0]], phases.checks
        right = next(
            (i for i in range(checks) if target(ahead[: len(ahead) - checks + i]) != ahead[i - checks]), checks
        )
        phases.after(right)
        since += right
        if right == checks:
            text += drafted
            continue
        kept = ahead[: len(ahead) - checks + right]
        text = [*kept, target(kept)]
        accepted.append(since)
        since = 0
    return Parallel(text, rounds, rounds * gamma, accepted)
