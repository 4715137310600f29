"""Chimera: a small head that reads all tokens, three at a time, beside the target's own states drafts a comb.

Zeng et al., "Chimera: A Lossless Decoding Method for Accelerating Large Language Models Inference by Fusing all
Tokens", 2024. https://arxiv.org/abs/2402.15758

Heads that guess several words from one state do not know each other's guesses. Here each guess is read again, together
with the two tokens before it, by one layer that also looks at every state of the target, before the next head guesses.
Beside each guess stand runners-up, and one forward of the target checks the comb.

The head's weights are given (``weights``; names in :class:`foveate.parts.trigram_head.TrigramHead`); training them is
no part of this. The authors' code cannot be run as it is published, so the arrangement of states and trigrams is a
reading of it that no vectors confirm: a state stands at the place of the token that was said from it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import PlanError
from ..method import Many, Range, method, option
from ..parts.trigram_head import TrigramHead
from ._drafter import Draft, Drafter, Outcome, Turn
from ._weights import Weights


@method(
    title="Chimera: A Lossless Decoding Method for Accelerating Large Language Models Inference by Fusing all Tokens",
    url="https://arxiv.org/abs/2402.15758",
    systems=("S107",),
    needs=(),
    training="a draft head for each target (weights are given, not trained here)",
    cost="one layer and one head for each level of the comb",
)
class Chimera:
    """Combs from a trained head over trigrams and the target's states."""

    trees = True
    features = True

    weights: Any = option(None, Weights(), "safetensors file of the head, or (from Python) its tensors by name")
    heads: int = option(32, Range(1, kind=int), "attention heads of the head's layer")
    widths: tuple[int, ...] = option((4, 3, 2, 1), Many(Range(1, kind=int)), "guesses of each level")
    theta: float = option(10000.0, Range(1), "rotary base of the layer")

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that reads the target's states. Raises PlanError without weights that fit."""
        if self.weights is None:
            raise PlanError("chimera needs the weights of its draft head: write chimera(weights='head.safetensors')")
        if turn.words is None:
            raise PlanError("chimera reads the target's states, which this model does not give")
        head = TrigramHead(Weights.load(self.weights), self.heads, theta=self.theta)
        if head.width != turn.words.shape[1]:
            raise PlanError(
                f"the head given to chimera is {head.width} wide and this target's states {turn.words.shape[1]}; give "
                "the head that was trained for this model"
            )
        return _Trigrams(self, head)


class _Trigrams:
    def __init__(self, options: Chimera, head: TrigramHead) -> None:
        self.options, self.head = options, head
        self.known = 1  # tokens that were read with the state before them; the first has none
        self.state: Tensor | None = None  # (B, D) before the last token, and what the layer says there
        self.out: Tensor | None = None

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> a comb: below the best guess of each level stand those of the next."""
        assert self.state is not None
        assert self.out is not None
        held, out, text = self.head.length, self.out, pad(ids, (2, 0))
        tokens: list[Tensor] = []
        parents: list[int] = []
        above = -1
        for level, width in enumerate(self.options.widths[: min(limit, self.head.levels)]):
            if level:
                out = self.head.read(text[:, -3:], None, text.shape[1] - 3)[:, -1]
            best = self.head.says(level, self.state, out).topk(width, -1).indices
            parents += [above] * width
            above = sum(t.shape[1] for t in tokens)
            tokens.append(best)
            text = torch.cat([text, best[:, :1]], 1)
        self.head.crop(held)
        return Draft(torch.cat(tokens, 1), parents=torch.tensor(parents, device=ids.device))

    def learn(self, outcome: Outcome) -> None:
        """Read what was settled: the states of the tokens that stay, each with the token after it."""
        if outcome.hidden is None:
            return
        new, n = outcome.hidden.float(), outcome.ids.shape[1]
        if self.out is not None:
            new = new.gather(1, outcome.path[..., None].expand(-1, -1, new.shape[-1]))
        k = min(new.shape[1], n - self.known)
        # of the prompt the last ones are left if it was shortened; of a draft the first ones were settled
        new, self.known = new[:, -k:] if self.out is None else new[:, :k], n
        out = self.head.read(pad(outcome.ids, (2, 0))[:, -k - 2 :], new, n - k)
        self.state, self.out = new[:, -1], out[:, -1]
