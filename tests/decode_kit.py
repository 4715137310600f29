"""What the tests of decoding share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

import foveate
from foveate import method
from foveate.decode._drafter import Draft, Drafter, Outcome, Turn
from foveate.report import Report
from foveate.sites.decode import place
from foveate.testing import tiny

GREEDY = {"max_new_tokens": 24, "do_sample": False}


@contextlib.contextmanager
def placed(model: Any, drafting: Any) -> Iterator[Report]:
    """The decode site alone, which drafts at every step whatever that costs."""
    with contextlib.ExitStack() as stack:
        report = Report()
        place(model, drafting, stack, report, paced=False, under=foveate.apply)
        yield report


def nearly(name: str, noise: float = 0.3) -> Any:
    """The tiny model with a disturbed head: right now and then."""
    model = tiny(name).model
    weight = model.get_output_embeddings().weight
    with torch.no_grad():
        weight += noise * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return model


@method(title="Oracle", url="", needs=())
class Oracle:
    """Knows the answer, and hides it in a tree: wrong guesses come first, and after some steps it knows no more."""

    trees = True
    stage: ClassVar[str] = "decode"
    name: ClassVar[str] = "oracle"
    answers: ClassVar[list[Tensor]] = []

    def begin(self, turn: Turn) -> Drafter:
        return self

    def draft(self, ids: Tensor, limit: int) -> Draft:
        n = ids.shape[1]
        right = self.answers[0][:, n : n + 3]
        k = right.shape[1]
        wrong = (right + 1) % 128
        # 0 wrong, 1 right; below the wrong one a branch of right words, below the right one: wrong, right; and so on
        tokens, parents = [wrong[:, 0], right[:, 0]], [-1, -1]
        if k > 1:
            tokens += [right[:, 1], wrong[:, 1], right[:, 1]]
            parents += [0, 1, 1]
        if k > 2:
            last = wrong[:, 2] if n % 2 else right[:, 2]
            tokens += [right[:, 2], last]
            parents += [2, 4]
        return Draft(torch.stack(tokens, 1), parents=torch.tensor(parents))

    def learn(self, outcome: Outcome) -> None:
        assert outcome.read.shape == outcome.logits.shape[:2]
        assert outcome.path.shape[1] == outcome.kept + 1
        if outcome.kept and len(outcome.ids) == 1:
            n, kept = outcome.ids.shape[1], outcome.read.gather(1, outcome.path)
            assert torch.equal(outcome.ids[:, n - 2 - outcome.kept : n - 1], kept) or torch.equal(
                outcome.ids[:, n - 1 - outcome.kept :], kept
            )
