"""Token recycling: the runners-up of earlier steps are the guesses of later ones.

Luo et al., "Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token Recycling", 2024.
https://arxiv.org/abs/2408.08696

Every forward says, at each token it reads, which tokens could come next; all but one are thrown away. Here the best k
after each token are written down, one row of a matrix a token. A draft is a tree grown out of that matrix, breadth
first: below a node stand the tokens of its own row, by rank, in a fixed shape with more room for better ranks. One
forward checks the whole tree, and what it says at every node, kept or not, is written down again.

Departures: rows start empty and are filled by the prompt's own pairs, so that a node without a guess is left out (the
published matrix starts as zeros, which guess token 0); the tree's shape follows from how often each rank is right (the
paper's is hand-made, of 80 nodes), and is smaller by default, as 80 nodes are dear on small machines.
``variant="code"`` starts as published and takes nothing from the prompt. The matrix is shared by the rows of a batch
and by the calls inside one block.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..method import OneOf, Range, method, option
from ..parts.trees import Tree, from_paths, likely_paths
from ._drafter import Draft, Drafter, Outcome, Turn

#: How often the guess of each rank is right, about, and how much less often one level deeper.
RANKS, DEEPER = (0.45, 0.16, 0.09, 0.06, 0.045, 0.035, 0.03, 0.025), 0.95


@method(
    title="Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token Recycling",
    url="https://arxiv.org/abs/2408.08696",
    systems=("S108",),
    needs=(),
    cost="top k of the logits of each node; one row of k numbers a token of the vocabulary",
    vectors=("token_recycling",),
)
class TokenRecycling:
    """Trees grown from the best successors seen so far."""

    trees = True

    nodes: int = option(32, Range(1, kind=int), "guesses in the tree, at most (80 in the paper)")
    k: int = option(8, Range(1, kind=int), "successors remembered for each token")
    depth: int = option(6, Range(1, kind=int), "levels of the tree, at most")
    variant: str = option("rule", OneOf(("rule", "code")), "'code' starts from zeros and leaves the prompt out")

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that goes on with the matrix of earlier calls."""
        recycler: Recycler | None = turn.memory.get("recycler")
        if recycler is None or len(recycler.matrix) != turn.vocabulary:
            recycler = Recycler(turn.vocabulary, self.k, self.shape(), empty=0 if self.variant == "code" else -1)
            turn.memory["recycler"] = recycler
        if self.variant == "rule" and turn.prompt is not None:
            recycler.pairs(turn.prompt)
        return recycler

    def shape(self) -> list[tuple[int, ...]]:
        """The tree as paths of ranks."""
        ranks = [RANKS[min(r, len(RANKS) - 1)] * 0.8 ** max(0, r - len(RANKS) + 1) for r in range(self.k)]
        return likely_paths([[c * DEEPER**d for c in ranks] for d in range(self.depth)], self.nodes)


class Recycler:
    """The matrix and the tree.

    Attributes:
        matrix: (V, k) int32, the best successors of each token, best first; -1 for none.
    """

    def __init__(self, vocabulary: int, k: int, paths: Sequence[Sequence[int]], empty: int = -1) -> None:
        self.matrix = torch.full((vocabulary, k), empty, dtype=torch.int32)
        ranks, parents = from_paths(paths)
        self.ranks, self.parents = torch.tensor(ranks), torch.tensor(parents)
        depth = Tree.of(self.parents).depth[1:]
        self.levels = [(depth == d).nonzero()[:, 0] for d in range(1, int(depth.max()) + 1)]

    def pairs(self, ids: Tensor) -> None:
        """Write down what followed what in ids (B, n); the latest comes first."""
        for row in ids.tolist():
            seen: dict[int, list[int]] = {}
            for a, b in itertools.pairwise(row):
                old = seen.setdefault(a, [x for x in self.matrix[a].tolist() if x >= 0])
                seen[a] = [b, *(x for x in old if x != b)][: self.matrix.shape[1]]
            for a, after in seen.items():
                self.matrix[a, : len(after)] = torch.tensor(after, dtype=torch.int32)

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> a tree; nodes that no row has a guess for are left out."""
        tokens = self.grow(ids[:, -1].cpu())
        known = (tokens >= 0).any(0)  # nothing stands below an empty node
        number = known.long().cumsum(0) - 1
        above = self.parents[known]
        parents = torch.where(above >= 0, number[above.clamp(min=0)], -1)
        return Draft(tokens[:, known].to(ids.device), parents=parents.to(ids.device))

    def grow(self, root: Tensor) -> Tensor:
        """root (B,) -> tokens (B, nodes) of the whole tree, -1 where the matrix is empty."""
        tokens = root.new_full((len(root), len(self.parents)), -1)
        for at in self.levels:
            above = self.parents[at]
            before = torch.where(above >= 0, tokens[:, above.clamp(min=0)], root[:, None])
            found = self.matrix[before.clamp(min=0), self.ranks[at]].long()
            tokens[:, at] = torch.where(before >= 0, found, -1)
        return tokens

    def learn(self, outcome: Outcome) -> None:
        """Write down the best successors at every token that was read."""
        self.write(outcome.read, outcome.logits)

    def write(self, read: Tensor, logits: Tensor) -> None:
        """read (B, q), logits (B, q, V): what follows each; of a token read twice the last one counts."""
        best = logits.topk(min(self.matrix.shape[1], logits.shape[-1]), -1).indices.flatten(0, 1).to("cpu", torch.int32)
        last = {token: i for i, token in enumerate(read.flatten().tolist())}
        rows = torch.tensor(list(last)), torch.tensor(list(last.values()))
        self.matrix[rows[0], : best.shape[1]] = best[rows[1]]
