"""SWIFT: the model drafts for itself with some of its layers left out, and finds out while it runs which.

Xia et al., "SWIFT: On-the-Fly Self-Speculative Decoding for LLM Inference Acceleration", ICLR 2025.
https://arxiv.org/abs/2410.06916

No second model, nothing trained. Attention and MLP of the inner layers are left out in part; what is left guesses one
token after another, at the end of the same cache, until it is no longer sure (top probability below ``stop``). Beside
each guess stand runners-up, more of them where it was less sure, so the draft is a comb, which one forward of
the whole model checks. At first every other layer is left out; then sets that differ a little are tried, and the one
whose guesses were right most often stays.

Departures: a set is judged by the guesses it really made (the authors let it predict the last 32 tokens again, which
costs forwards of its own), and sets come from changing the best one so far, in place of random and Bayesian ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..method import Range, method, option
from ._drafter import Draft, Drafter, Outcome, Skimmer, Skip, Turn


@method(
    title="SWIFT: On-the-Fly Self-Speculative Decoding for LLM Inference Acceleration",
    url="https://arxiv.org/abs/2410.06916",
    systems=("S110",),
    needs=(),
    cost="one forward of the layers left in for each level of the comb",
    vectors=("swift",),
)
class Swift:
    """Combs of guesses from the model without some of its layers."""

    trees = True

    skip: float = option(0.45, Range(0, 1, open_low=True), "share of the inner attentions and MLPs to leave out")
    stop: float = option(0.8, Range(0, 1), "stop after a guess that is less sure than this")
    tokens: int = option(25, Range(1, kind=int), "how many levels a draft has at most")
    top: int = option(10, Range(1, kind=int), "runners-up beside the least sure guess")
    rounds: int = option(30, Range(0, kind=int), "sets of layers to try")
    trial: int = option(16, Range(1, kind=int), "guesses that a set is judged by")
    seed: int = option(0, Range(0, kind=int), "which sets are tried")

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that goes on with the best set of earlier calls."""
        assert turn.skim is not None
        skim = turn.skim()
        search = turn.memory.setdefault("search", Search(skim.layers, self))
        return _Self(self, skim, search, turn.trees)


class Search:
    """Which sub-layers to leave out: local search over sets of one size, by how often their guesses were right."""

    def __init__(self, layers: int, options: Swift) -> None:
        self.random = torch.Generator().manual_seed(options.seed)
        self.inner = [(i, part) for i in range(1, layers - 1) for part in ("attention", "mlp")]
        size = int(len(self.inner) * options.skip)
        odd = [x for x in self.inner if x[0] % 2]
        rest = [x for x in self.inner if x not in odd]
        self.best: Skip = frozenset((odd + rest)[:size])
        self.now, self.rounds, self.trial = self.best, options.rounds, options.trial
        self.rate: float | None = None  # of the best set
        self.right = self.made = 0

    def saw(self, right: int, made: int) -> None:
        """So many of the guesses that were made on a right beginning were right."""
        self.right, self.made = self.right + right, self.made + made
        if self.made < self.trial:
            return
        rate = self.right / self.made
        if self.rate is None or rate > self.rate or self.now == self.best:
            self.best, self.rate = self.now, rate
        self.right = self.made = 0
        if self.rounds == 0 or not 0 < len(self.best) < len(self.inner):
            self.now = self.best
            return
        self.rounds -= 1
        self.now = self._changed()

    def _changed(self) -> Skip:
        """The best set with one sub-layer taken in and another left out."""
        out, kept = sorted(self.best), sorted(set(self.inner) - self.best)
        a, b = (int(torch.randint(len(x), (1,), generator=self.random)) for x in (out, kept))
        return self.best - {out[a]} | {kept[b]}


class _Self:
    def __init__(self, options: Swift, skim: Skimmer, search: Search, trees: bool) -> None:
        self.options, self.skim, self.search, self.trees = options, skim, search, trees
        self.first = torch.zeros(0, dtype=torch.long)  # columns of the last draft on the branch of first guesses

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> a comb."""
        o = self.options
        made, self.first = comb(
            lambda token: self.skim.read(token, self.search.now)[:, -1],
            ids[:, -1:],
            min(limit, o.tokens),
            o.stop,
            o.top,
        )
        self.skim.forget()
        return made

    def learn(self, outcome: Outcome) -> None:
        """Count the first guesses that were right, row by row."""
        read, said = outcome.read, outcome.logits.argmax(-1)
        first = self.first + 1 if self.trees else torch.arange(1, len(self.first) + 1)
        first = first[first < read.shape[1]]  # deeper levels than there was room for were not read
        if not len(first):
            return
        above = torch.cat([first.new_zeros(1), first[:-1]])
        right = (read[:, first] == said[:, above]).long().cumprod(1).sum(1)
        self.search.saw(int(right.sum()), int((right + 1).clamp(max=len(first)).sum()))


def comb(
    read: Callable[[Tensor], Tensor], root: Tensor, levels: int, stop: float, top: int = 10
) -> tuple[Draft, Tensor]:
    """Guess on along the best guess, with runners-up beside it.

    Args:
        read: tokens (B, 1) -> logits (B, V) after them.
        root: (B, 1) where to go on.
        levels: at most so many.
        stop: the level of a guess below this probability is the last; a row that stops earlier than others has no
            guess on later levels.
        top: guesses on a level where the best has at most probability 0.5; 8 up to 0.8, 5 up to 0.95, else 3.

    Returns:
        The draft, levels one after the other, and (levels,) where in it the best guesses are.
    """
    token, going = root, torch.ones_like(root[:, 0], dtype=torch.bool)
    tokens: list[Tensor] = []
    parents: list[int] = []
    first: list[int] = []
    for level in range(levels):
        probs = read(token).softmax(-1)
        sure, best = probs.topk(min(top, probs.shape[-1]), -1)
        widths = torch.full_like(best[:, 0], best.shape[1])
        for bar, width in ((0.5, 8), (0.8, 5), (0.95, 3)):
            widths = torch.where(sure[:, 0] > bar, min(width, best.shape[1]), widths)
        width = int(torch.where(going, widths, 1).max())
        rank = torch.arange(width, device=best.device)
        fits = going[:, None] & (rank < widths[:, None])
        parents += [first[-1] if level else -1] * width
        first.append(sum(t.shape[1] for t in tokens))
        tokens.append(torch.where(fits, best[:, :width], -1))
        token, going = best[:, :1], going & (sure[:, 0] >= stop)
        if not bool(going.any()):
            break
    made = torch.cat(tokens, 1) if tokens else root[:, :0]
    above = torch.tensor(parents, dtype=torch.long, device=root.device)
    return Draft(made, parents=above), torch.tensor(first, dtype=torch.long)
