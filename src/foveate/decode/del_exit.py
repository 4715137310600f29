"""DEL: the model drafts for itself from an inner layer, and learns while it runs from which, and how far.

Entezari Zarch et al., "DEL: Context-Aware Dynamic Exit Layer for Efficient Self-Speculative Decoding", COLM 2025.
https://arxiv.org/abs/2504.05598

Every forward that checks a draft also says, for nothing, what an inner layer would have guessed at the same tokens. How
often each layer agrees with the last one, lately, is the chance that its guess stays; with the cost of running that
many layers it follows how many tokens a second a draft of length d from layer l is worth. The best pair is used next,
or no draft at all. A draft ends early where the exit is less sure than halfway between guesses that stayed and guesses
that did not.

Departure: the head is run on ``looks`` of the layers after each forward, in turn, as reading all of them costs more
than it saves under a large vocabulary. Works on any model; models trained for early exit (LayerSkip) gain most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Range, method, option
from ._drafter import Draft, Drafter, Lens, Outcome, Skimmer, Turn


@method(
    title="DEL: Context-Aware Dynamic Exit Layer for Efficient Self-Speculative Decoding",
    url="https://arxiv.org/abs/2504.05598",
    systems=("S105",),
    needs=(),
    cost="exit layer / layers of a forward for each drafted token; the head once for each layer looked at",
)
class Del:
    """Drafts from the exit layer that is worth most."""

    tokens: int = option(8, Range(1, kind=int), "longest draft")
    looks: int = option(2, Range(1, kind=int), "layers compared with the last one after each forward")
    memory: float = option(0.9, Range(0, 0.999), "how much of what was seen is kept at each comparison")

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that goes on with what it learned in earlier calls."""
        assert turn.skim is not None
        assert turn.lens is not None
        skim = turn.skim()
        rates = turn.memory.setdefault("rates", Rates(skim.layers, self.memory))
        return _Exit(self, skim, turn.lens(), rates)


class Rates:
    """How often each layer agrees with the last one: weighted counts of right guesses and of all."""

    def __init__(self, layers: int, memory: float) -> None:
        self.layers, self.memory = layers, memory
        self.right, self.all = [0.0] * layers, [0.0] * layers
        self.next = 0

    def see(self, layer: int, right: int, total: int) -> None:
        """Of so many comparisons so many agreed."""
        self.right[layer] = self.memory * self.right[layer] + right
        self.all[layer] = self.memory * self.all[layer] + total

    def best(self, longest: int) -> tuple[int, int]:
        """The layer to exit after and the length to draft; length 0 where no draft is worth it."""
        found, most = (0, 0), 1.0
        for layer in range(self.layers - 1):
            if self.all[layer] == 0:
                continue
            rate = min(0.999, self.right[layer] / self.all[layer])
            for d in range(1, longest + 1):
                worth = (1 - rate ** (d + 1)) / (1 - rate) / (1 + d * (layer + 1) / self.layers)
                if worth > most:
                    found, most = (layer, d), worth
        return found


class _Exit:
    def __init__(self, options: Del, skim: Skimmer, lens: Lens, rates: Rates) -> None:
        self.options, self.skim, self.lens, self.rates = options, skim, lens, rates
        self.sure: list[float] = []  # of each guess of the last draft, on average over rows
        self.begun = False
        self.kept, self.lost = 0.5, 0.0  # how sure guesses were that stayed, and those that did not

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> a chain, empty where no layer is worth it."""
        layer, length = self.rates.best(min(self.options.tokens, limit))
        self.sure = []
        skip = frozenset((i, p) for i in range(layer + 1, self.skim.layers) for p in ("attention", "mlp"))
        token, tokens = ids[:, -1:], [ids[:, :0]]
        for _ in range(length):
            probs = self.skim.read(token, skip)[:, -1].softmax(-1)
            best = probs.max(-1, keepdim=True)
            token = best.indices
            tokens.append(token)
            self.sure.append(float(best.values.mean()))
            if self.sure[-1] < (self.kept + self.lost) / 2:
                break
        self.skim.forget()
        return Draft(torch.cat(tokens, 1))

    def learn(self, outcome: Outcome) -> None:
        """Compare some layers with the last one at the tokens that stand in the text now."""
        for i, sure in enumerate(self.sure):
            if i < outcome.kept:
                self.kept = 0.9 * self.kept + 0.1 * sure
            elif i == outcome.kept:
                self.lost = 0.9 * self.lost + 0.1 * sure
        self.sure = []
        if not self.begun:  # the prefill ran before the lens was put on
            self.begun = True
            return
        n = outcome.kept + 1
        said = outcome.logits[:, :n].argmax(-1)
        for _ in range(min(self.options.looks, self.rates.layers - 1)):
            layer = self.rates.next
            self.rates.next = (layer + 1) % max(1, self.rates.layers - 1)
            guess = self.lens.says(layer)[:, -outcome.logits.shape[1] :][:, :n].argmax(-1).to(said.device)
            self.rates.see(layer, int((guess == said).sum()), said.numel())
