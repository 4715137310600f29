"""PPD: learned prompt tokens behind each guess make the target itself guess the words after next.

Chen et al., "Hardware-Aware Parallel Prompt Decoding for Memory-Efficient Acceleration of LLM Inference", 2024.
https://arxiv.org/abs/2405.18628

A few trained embeddings, put behind a token, are answered by the model with what comes two, three, four words later. So
every node of a tree of guesses carries some of them: the forward that checks the tree also makes the next guesses. How
many each node carries is a matter of how likely it is to be the one that stays (:mod:`foveate.parts.prompt_trees`).

The embeddings are given (``weights``); training them is no part of this. They leave no trace in the cache, and the
output is the target's. It needs a model whose masks can be set, as prompt tokens must not be seen by guesses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import PlanError
from ..method import Range, method, option
from ..parts.prompt_trees import PromptTree, prompt_trees
from ..parts.trees import from_paths
from ._drafter import Draft, Drafter, Outcome, Turn
from ._weights import Weights

#: How often guesses are right by rank, and that of the best one by level: a guess, for ``weights`` without their own.
RANKS, LEVELS = (1.0, 0.3, 0.16, 0.1, 0.07, 0.05, 0.04, 0.03, 0.03, 0.02), (0.5, 0.3, 0.2, 0.15)


@method(
    title="Hardware-Aware Parallel Prompt Decoding for Memory-Efficient Acceleration of LLM Inference",
    url="https://arxiv.org/abs/2405.18628",
    systems=("S102",),
    needs=(),
    training="a few prompt-token embeddings for each target (given, not trained here)",
    cost="`limit` tokens more in each forward of the target",
    vectors=("ppd",),
)
class PPD:
    """Guesses by the target itself, from learned prompt tokens."""

    trees = True

    weights: Any = option(
        None, Weights(), "safetensors file with 'prompt_tokens' (P, D) and perhaps 'accuracies' (P, ranks), or these"
    )
    limit: int = option(32, Range(20, kind=int), "guesses and prompt tokens in a tree, without the root's own")

    def begin(self, turn: Turn) -> Drafter:
        """A drafter over the trees of every state. Raises PlanError without weights, or where trees cannot be read."""
        if self.weights is None:
            raise PlanError("ppd needs its trained prompt tokens: write ppd(weights='prompt_tokens.safetensors')")
        if not turn.trees:
            raise PlanError(
                "ppd hides its prompt tokens with a mask of its own, which this model or its cache rules out"
            )
        tensors = Weights.load(self.weights)
        if "prompt_tokens" not in tensors:
            raise PlanError(f"the weights of ppd must hold 'prompt_tokens' (P, D). Got {', '.join(sorted(tensors))}.")
        soft = tensors["prompt_tokens"]
        given = tensors.get("accuracies")
        accuracies = [[a * b for b in RANKS] for a in LEVELS[: len(soft)]] if given is None else given.tolist()
        if len(accuracies) != len(soft):
            raise PlanError(
                f"ppd has {len(soft)} prompt tokens and accuracies of {len(accuracies)} levels; give as many"
            )
        return Guesser(prompt_trees(accuracies, self.limit, min(10, len(accuracies[0]))), len(soft), soft)


class Guesser:
    """The trees, and the guesses that the last forward left.

    Attributes:
        state: how many levels of guesses there are, 0 before the first forward with prompt tokens.
    """

    def __init__(self, trees: list[PromptTree], prompts: int, soft: Tensor | None = None) -> None:
        self.trees, self.prompts, self.soft = trees, prompts, soft
        self.state = 0
        self.carried = [0]
        self.guesses: list[Tensor] = []  # (B, ranks) of each level

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> the tree of the state, its prompt tokens behind the guesses."""
        tokens, parents, soft, _ = self.layout(ids[:, -1:])
        device = ids.device
        return Draft(tokens, parents=parents.to(device), soft=soft.to(device), embeddings=self.soft)

    def layout(self, root: Tensor) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Guesses first, then the prompt tokens of the root, then those of each guess.

        root (B, 1) -> tokens (B, gamma), -1 at prompt tokens; parents (gamma,); soft (gamma,): which prompt token, -1
        at guesses; and how many the root (first) and each guess carry.
        """
        tree = self.trees[self.state - 1] if self.state else PromptTree((), ())
        labels, parents = from_paths(tree.paths)
        levels = [len(p) - 1 for p in tree.paths]
        columns = [self.guesses[d][:, r] for d, r in zip(levels, labels)]
        carried, soft = [self.prompts, *tree.prompts], [-1] * len(labels)
        for node, count in enumerate(carried):
            above = node - 1
            for k in range(count):
                parents.append(above)
                soft.append(k)
                above = len(parents) - 1
        empty = root.new_full((len(root), sum(carried)), -1)
        tokens = torch.cat([torch.stack(columns, 1), empty], 1) if columns else empty
        self.carried = carried
        return tokens, torch.tensor(parents), torch.tensor(soft), carried

    def learn(self, outcome: Outcome) -> None:
        """What the prompt tokens behind the last node that stays say is the next guesses."""
        if outcome.read.shape[1] == 1 or outcome.read.shape[1] != len(self.carried) + sum(self.carried):
            self.state, self.guesses = 0, []  # the prefill, a forward without a tree, or a tree cut near the end
            return
        self.take(outcome.path[:, -1], outcome.logits)

    def take(self, node: Tensor, logits: Tensor) -> None:
        """node (B,) where each row ended, logits (B, gamma + 1, V). Rows share the state of the one with fewest."""
        guessed = len(self.carried) - 1
        first = [1 + guessed + sum(self.carried[:i]) for i in range(len(self.carried))]
        state = min(self.carried[i] for i in node.tolist())
        ranks = max((max(p[-1] for p in t.paths) for t in self.trees), default=0) + 1
        at = torch.tensor([[first[i] + k for k in range(state)] for i in node.tolist()], device=logits.device)
        rows = torch.arange(len(node), device=logits.device)[:, None]
        best = logits[rows, at].topk(min(ranks, logits.shape[-1]), -1).indices
        self.state, self.guesses = state, list(best.unbind(1))
