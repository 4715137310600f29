"""FSPAD: a one-layer head over the target's own features drafts a tree.

Gui et al., "Boosting Lossless Speculative Decoding via Feature Sampling and Partial Alignment Distillation", AAAI 2025.
https://arxiv.org/abs/2408.15562

What the target's last layer makes of the text says more about the next words than the words do. A small head, trained
for this target, turns a feature and the token after it into the next feature; a gated fusion lets the token pick what
it needs of the feature, and the head gives one vector for the words and another for its own next step. Guesses grow
into a tree along the likeliest branches (EAGLE-2), and one forward of the target checks it.

The head's weights are given (``weights``, a safetensors file with the names of the authors' checkpoints); training them
is no part of this. The head reads a batch row by row. In a shortened prompt it reads the features that are left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import PlanError
from ..method import Range, method, option
from ..parts.fused_head import FusedHead, grow
from ..parts.trees import side_by_side
from ._drafter import Draft, Drafter, Outcome, Turn
from ._weights import Weights


@method(
    title="Boosting Lossless Speculative Decoding via Feature Sampling and Partial Alignment Distillation",
    url="https://arxiv.org/abs/2408.15562",
    systems=("S112",),
    needs=(),
    training="a draft head for each target (weights are given, not trained here)",
    cost="one layer over `top` tokens for each level of the tree",
    vectors=("fspad",),
)
class FSPAD:
    """Trees from a trained head over the target's features."""

    trees = True
    features = True

    weights: Any = option(None, Weights(), "safetensors file of the head, or (from Python) its tensors by name")
    heads: int = option(32, Range(1, kind=int), "attention heads of the head")
    nodes: int = option(59, Range(1, kind=int), "guesses in the tree")
    depth: int = option(5, Range(1, kind=int), "levels below the first")
    top: int = option(10, Range(1, kind=int), "children of a node")
    theta: float = option(10000.0, Range(1), "rotary base of the head")

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that reads the target's features. Raises PlanError without weights that fit."""
        if self.weights is None:
            raise PlanError("fspad needs the weights of its draft head: write fspad(weights='head.safetensors')")
        if turn.words is None:
            raise PlanError("fspad reads the target's features, which this model does not give")
        tensors = Weights.load(self.weights)
        wide = tensors.get("fc_fc_weight", torch.zeros(0, 0)).shape[0]
        if wide != turn.words.shape[1]:
            raise PlanError(
                f"the head given to fspad is {wide} wide and this target's features {turn.words.shape[1]}; "
                "give the head that was trained for this model"
            )
        return _Heads(self, tensors, turn.words)


class _Heads:
    """A head for each row of the batch."""

    def __init__(self, options: FSPAD, tensors: dict[str, Tensor], words: Tensor) -> None:
        self.options, self.tensors, self.words = options, tensors, words
        self.heads: list[FusedHead] = []
        self.known = 1  # tokens that were read with the feature before them; the first has none
        self.last: list[tuple[Tensor, Tensor]] = []  # of each row: the head's outputs at the end of the text

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> a tree."""
        o, rows = self.options, []
        for head, (out, feature) in zip(self.heads, self.last):
            depth = min(o.depth, limit - 1)
            rows.append(grow(head, out, feature, head.length, self.words, o.nodes, depth, o.top))
        tokens, parents = side_by_side(rows)
        return Draft(tokens, parents=parents)

    def learn(self, outcome: Outcome) -> None:
        """Read what was settled: the features of the tokens that stay, each with the token after it."""
        if outcome.hidden is None:
            return
        if not self.heads:
            self.heads = [FusedHead(self.tensors, self.options.heads, theta=self.options.theta) for _ in outcome.ids]
            new = outcome.hidden.float()
        else:
            new = outcome.hidden.gather(1, outcome.path[..., None].expand(-1, -1, outcome.hidden.shape[-1])).float()
        k = min(new.shape[1], outcome.ids.shape[1] - self.known)
        # of the prompt the last ones are left if it was shortened; of a draft the first ones were settled
        new, self.known, self.last = new[:, -k:] if self.known == 1 else new[:, :k], outcome.ids.shape[1], []
        for head, feature, after in zip(self.heads, new, outcome.ids[:, -k:]):
            said, onward = head.read(feature[None], after[None], torch.arange(head.length, head.length + k))
            self.last.append((said[0, -1], onward[0, -1]))
