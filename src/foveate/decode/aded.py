"""ADED: a table of word triples drafts, and a tree search decides which of its guesses are worth a place.

Liu et al., "Adaptix: Adaptive Draft-Verification for LLM Decoding" (ADED), 2024.
https://arxiv.org/abs/2407.12021

What followed a pair of tokens, and how often, is a small model of the language at hand. It is learned while text comes:
from the prompt, from what was said, and from what the target would have said at guesses that failed. Drafts come from
a Monte Carlo tree search over it (expected chance against how little a branch was visited), so that likely branches go
deep and unlikely ones are still tried now and then; words of the last few tokens count extra.

Departures: the authors start from a table counted over a corpus, here it starts from the prompt alone; their search
draws from an unseeded random source, here each turn has a seed.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import torch
from torch import Tensor

from ..method import Range, method, option
from ..parts.trees import from_paths, side_by_side
from ._drafter import Draft, Drafter, Outcome, Turn

#: Successors kept of a pair; what a word among the last tokens adds to its chance, at most CAP; exploration.
KEEP, BOOST, CAP, RECENT, EXPLORE = 12, 0.04, 3.0, 16, 32.0

Pair = tuple[int, int]


@method(
    title="Adaptix: Adaptive Draft-Verification for LLM Decoding",
    url="https://arxiv.org/abs/2407.12021",
    systems=("S101",),
    needs=(),
    cost="iterations of a search in Python for each forward of the target, a millisecond or two",
)
class ADED:
    """Trees found by search in a table of triples."""

    trees = True

    nodes: int = option(24, Range(1, kind=int), "guesses in the tree, at most")
    depth: int = option(4, Range(1, kind=int), "levels of the search; the tree has one more")
    iterations: int = option(150, Range(1, kind=int), "steps of the search")
    seed: int = option(0, Range(0, kind=int), "of the search")

    def begin(self, turn: Turn) -> Drafter:
        """A drafter with a table for each row of the batch."""
        return _Searching(self, turn)


class Trigrams:
    """How often a token followed a pair of tokens."""

    def __init__(self) -> None:
        self.counts: dict[Pair, Counter[int]] = {}

    def add(self, text: list[int]) -> None:
        """All triples of a text."""
        for a, b, c in zip(text, text[1:], text[2:]):
            self.counts.setdefault((a, b), Counter())[c] += 1

    def chances(self, pair: Pair, recent: Counter[int]) -> list[tuple[int, float]]:
        """The most frequent successors and their shares, raised for those said lately; best first."""
        found = self.counts.get(pair)
        if not found:
            return []
        best = sorted(found.items(), key=lambda x: (-x[1], x[0]))[:KEEP]
        total = sum(n for _, n in best)
        raised = [(token, n / total + min(CAP, BOOST * recent[token])) for token, n in best]
        return sorted(raised, key=lambda x: -x[1])


class _Node:
    def __init__(self, pair: Pair, chance: float) -> None:
        self.pair, self.chance = pair, chance
        self.visits, self.score = 0, 0.0
        self.children: list[_Node] | None = None

    def worth(self, child: _Node) -> float:
        mean = child.score / child.visits if child.visits else 0.0
        open_ = EXPLORE + math.log((self.visits + 9) / 8)
        return mean + open_ * child.chance * math.sqrt(self.visits) / (1 + child.visits)


def search(
    table: Trigrams, pair: Pair, recent: Counter[int], depth: int, iterations: int, rng: random.Random
) -> list[tuple[tuple[int, ...], int]]:
    """Monte Carlo tree search from a pair; (sequence of tokens, visits) of every node reached, most visited first."""
    root = _Node(pair, 1.0)
    for _ in range(iterations):
        path = [root]
        while path[-1].children and len(path) <= depth:
            here = path[-1]
            path.append(max(here.children or [], key=here.worth))
        leaf = path[-1]
        if len(path) <= depth and leaf.children is None:
            leaf.children = [_Node((leaf.pair[1], t), c) for t, c in table.chances(leaf.pair, recent)]
            if leaf.children:
                path.append(leaf.children[-1])
        reward = (
            1.0 + sum(n.chance for n in path[1:]) + _rolled(table, path[-1].pair, recent, depth + 1 - len(path), rng)
        )
        for node in path:
            node.visits += 1
            node.score += reward
    found: list[tuple[tuple[int, ...], int]] = []
    stack: list[tuple[tuple[int, ...], _Node]] = [((), root)]
    while stack:
        said, node = stack.pop()
        for child in node.children or ():
            if child.visits:
                stack.append(((*said, child.pair[1]), child))
                found.append((stack[-1][0], child.visits))
    return sorted(found, key=lambda x: (-x[1], x[0]))


def _rolled(table: Trigrams, pair: Pair, recent: Counter[int], steps: int, rng: random.Random) -> float:
    """Chances along a walk drawn from the table."""
    total = 0.0
    for _ in range(steps):
        choice = table.chances(pair, recent)
        if not choice:
            break
        token, chance = rng.choices(choice, [c for _, c in choice])[0]
        total, pair = total + chance, (pair[1], token)
    return total


class _Searching:
    def __init__(self, options: ADED, turn: Turn) -> None:
        self.options = options
        self.tables: list[Trigrams] = []
        self.known = 0  # tokens of the text that are in the tables

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> a tree; a row whose last pair is new guesses nothing."""
        rows = [self._row(table, row, limit) for table, row in zip(self.tables, ids.tolist())]
        if not rows or not any(len(t) for t, _ in rows):
            return Draft(ids[:, :0])
        tokens, parents = side_by_side(rows)
        return Draft(tokens.to(ids.device), parents=parents.to(ids.device))

    def _row(self, table: Trigrams, text: list[int], limit: int) -> tuple[Tensor, Tensor]:
        o, recent = self.options, Counter(text[-RECENT:])
        rng = random.Random(o.seed * 1_000_003 + len(text))
        depth = min(o.depth, max(1, limit - 1))
        found = search(table, (text[-2], text[-1]), recent, depth, o.iterations, rng) if len(text) > 1 else []
        paths: list[tuple[int, ...]] = []
        every: set[tuple[int, ...]] = set()
        for said, _ in found:
            pair = (said[-2], said[-1]) if len(said) > 1 else (text[-1], said[-1])
            more = table.chances(pair, recent)[:1]
            whole = (*said, *(t for t, _ in more))
            new = {whole[: i + 1] for i in range(len(whole))} - every
            if len(every) + len(new) > o.nodes:
                continue
            every |= new
            paths.append(whole)
        labels, parents = from_paths(paths)
        rank = {said: i for i, (said, _) in enumerate(found)}
        return _by_rank(labels, parents, rank)  # the most visited siblings first: theirs is the branch a chain reads

    def learn(self, outcome: Outcome) -> None:
        """Add what was settled, and what the target would have said elsewhere."""
        text = outcome.ids.tolist()
        if not self.tables:
            self.tables = [Trigrams() for _ in text]
        for table, row in zip(self.tables, text):
            table.add(row[max(0, self.known - 2) :])
        self.known = outcome.ids.shape[1]
        said, kept = outcome.logits.argmax(-1).tolist(), outcome.path.tolist()
        read = outcome.read.tolist()
        for table, words, best, path in zip(self.tables, read, said, kept):
            for a, b in itertools.pairwise(range(len(words))):
                if a == 0 and b not in path:  # a guess right behind the text that failed: what would have followed it
                    table.counts.setdefault((words[0], words[b]), Counter())[best[b]] += 1


def _by_rank(labels: list[int], parents: list[int], rank: dict[tuple[int, ...], int]) -> tuple[Tensor, Tensor]:
    """The same tree with siblings in order of rank, those without one last."""
    said: list[tuple[int, ...]] = []
    for label, above in zip(labels, parents):
        said.append((*(said[above] if above >= 0 else ()), label))
    order = sorted(range(len(labels)), key=lambda i: (len(said[i]), rank.get(said[i], len(rank)), said[i]))
    place = {old: new for new, old in enumerate(order)}
    under = [place.get(parents[i], -1) for i in order]
    return torch.tensor([labels[i] for i in order], dtype=torch.long), torch.tensor(under, dtype=torch.long)
