"""Trees of guesses: several continuations of one text that share their beginnings, read in one forward."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tree:
    """The shape of a tree, the same for every row of a batch. Node 0 is the root, the last token that is settled.

    Attributes:
        parents: (q,) int64, the node before each; -1 at the root. A node comes after its parent.
        depth: (q,) int64, steps from the root.
        ancestors: (q, q) bool; ``ancestors[i, j]`` where j lies on the way from the root to i, both included.
    """

    parents: Tensor
    depth: Tensor
    ancestors: Tensor

    @classmethod
    def of(cls, parents: Tensor) -> Tree:
        """parents (gamma,) int64 of the guesses alone, counted without the root: -1 follows the root."""
        above = torch.cat([parents.new_full((1,), -1), parents + 1])
        q = len(above)
        reach = torch.eye(q, device=parents.device)
        reach[torch.arange(1, q, device=parents.device), above[1:]] = 1.0
        steps = 1
        while steps < q:  # who is reached in twice as many steps, until that is everybody above
            more = ((reach @ reach) > 0).float()
            if torch.equal(more, reach):
                break
            reach, steps = more, 2 * steps
        seen = reach > 0
        return cls(above, seen.sum(1) - 1, seen)

    @property
    def q(self) -> int:
        """Nodes, the root included."""
        return len(self.parents)

    def path(self, node: Tensor) -> Tensor:
        """node (B,) -> (B, 1 + the greatest depth among them): nodes from the root down, -1 after the end."""
        on = self.ancestors[node]
        length = int(on.sum(1).max())
        order = torch.argsort((~on).to(torch.uint8), dim=1, stable=True)[:, :length]  # nodes follow their parents
        return torch.where(on.gather(1, order), order, -1)


def first_branch(parents: Tensor) -> Tensor:
    """Positions (k,) of the guesses on the branch of first children, of parents (gamma,)."""
    at, out = -1, []
    for i, above in enumerate(parents.tolist()):
        if above == at:
            out.append(i)
            at = i
    return torch.tensor(out, dtype=torch.long, device=parents.device)


def first_children(parents: Tensor) -> Tensor:
    """(gamma,) bool: whether no sibling comes before a guess, of parents (gamma,)."""
    seen: set[int] = set()
    out = []
    for above in parents.tolist():
        out.append(above not in seen)
        seen.add(above)
    return torch.tensor(out, dtype=torch.bool, device=parents.device)


def side_by_side(rows: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One tree for rows that have their own: (tokens (k,), parents (k,)) each -> tokens (B, sum of k), parents.

    Every row keeps its own branches and guesses nothing on those of the others (-1). Rows that agree on the shape
    share it.
    """
    first = rows[0][1]
    if all(torch.equal(p, first) for _, p in rows):
        return torch.stack([t for t, _ in rows]), first
    total, at = sum(len(t) for t, _ in rows), 0
    tokens = first.new_full((len(rows), total), -1)
    parents = first.new_full((total,), -1)
    for b, (t, p) in enumerate(rows):
        tokens[b, at : at + len(t)] = t
        parents[at : at + len(t)] = torch.where(p >= 0, p + at, -1)
        at += len(t)
    return tokens, parents


def from_paths(paths: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """A tree that holds these sequences of labels, those that begin alike sharing their beginning.

    Returns:
        The label of each node and its parent (-1: the root), level by level, in the order of the labels' sequences.
    """
    known: dict[tuple[int, ...], int] = {}
    every = {tuple(p[: i + 1]) for p in paths for i in range(len(p))}
    for prefix in sorted(every, key=lambda p: (len(p), p)):
        known[prefix] = len(known)
    return [p[-1] for p in known], [known.get(p[:-1], -1) for p in known]


def likely_paths(chances: Sequence[Sequence[float]], nodes: int) -> list[tuple[int, ...]]:
    """The paths of ranks that are most often right, so many of them.

    chances: for each depth, how often the guess of each rank is the right one. A path's chance is the product over its
    depth; of equal ones the shorter, then the lower ranks come first, so every beginning of a path is a path too.
    """
    heap: list[tuple[float, int, tuple[int, ...]]] = [(-c, 1, (r,)) for r, c in enumerate(chances[0])]
    heapq.heapify(heap)
    out: list[tuple[int, ...]] = []
    while heap and len(out) < nodes:
        chance, depth, path = heapq.heappop(heap)
        out.append(path)
        if depth < len(chances):
            for r, c in enumerate(chances[depth]):
                heapq.heappush(heap, (chance * c, depth + 1, (*path, r)))
    return sorted(out, key=lambda p: (len(p), p))
