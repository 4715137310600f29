"""RSD: the draft model's tree is drawn without replacement, so that no two branches say the same.

Jeon et al., "Recursive Speculative Decoding: Accelerating LLM Inference via Sampling Without Replacement", 2024.
https://arxiv.org/abs/2402.14160

Guesses drawn one by one from the draft model often repeat each other. Here the children of a node are different tokens,
drawn by Gumbel top-k (``branches``: so many below each node of a level), or the whole level is one draw of ``beam``
different sequences (stochastic beam search). The target checks the tree in one forward, and siblings one after the
other, each against what those before it left (:func:`foveate.parts.verify_tree.follow_drafted`): sampling keeps the
target's distribution exactly. Greedy calls take the most likely tokens in place of draws.

Where trees cannot be read, one chain is drawn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..method import Many, Range, method, option
from ..parts.trees import Tree, side_by_side
from ..parts.without_replacement import beam_step, draw_several
from ._drafter import Draft, Drafter, Outcome, Reader, Turn
from ._second import PathOrModel, SmallModel, found, keep, reader_of


@method(
    title="Recursive Speculative Decoding: Accelerating LLM Inference via Sampling Without Replacement",
    url="https://arxiv.org/abs/2402.14160",
    systems=("S109",),
    needs=(),
    cost="one forward of the draft model, over the tree so far, for each level",
)
class RSD:
    """Trees drawn without replacement."""

    trees = True

    draft: Any = option(None, PathOrModel(), "the draft model: a path or name, or (from Python) a loaded model")
    branches: tuple[int, ...] = option((3, 2, 1), Many(Range(1, kind=int)), "children of each node, level by level")
    beam: int | None = option(None, Range(1, kind=int), "draw levels of so many sequences, as many as `branches` has")

    def __post_init__(self) -> None:
        keep(self)

    def second_model(self) -> Any:
        """The path or the loaded draft model. Raises PlanError if none was given."""
        return found(self)

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that reads along with the draft model."""
        reader = reader_of(self, turn)
        return _Trees(self, turn, reader) if turn.trees else SmallModel(turn, reader, len(self.branches))


class _Trees:
    def __init__(self, options: RSD, turn: Turn, reader: Reader) -> None:
        self.options, self.turn, self.reader = options, turn, reader

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> a tree and, when sampling, what its siblings were drawn from."""
        self.reader.forget(0)
        if (gap := ids.shape[1] - 1 - self.reader.length) > 0:  # the root is left to be read with the tree
            self.reader.read(ids[:, self.reader.length : self.reader.length + gap])
            self.reader.forget(0)
        levels = self.options.branches[:limit]
        return self._beams(ids, levels) if self.options.beam is not None else self._fixed(ids, levels)

    def learn(self, outcome: Outcome) -> None:
        """The reader keeps nothing of a tree; it reads what was settled before the next."""

    def _scores(self, ids: Tensor, tokens: Tensor, parents: Tensor) -> Tensor:
        """(B, gamma + 1, V) of the draft model after the text and every node so far, as the processors leave them."""
        tree = Tree.of(parents)
        nodes = torch.cat([ids[:, -1:], tokens.clamp(min=0)], 1)
        logits = self.reader.look(nodes, tree)
        if logits is None:  # its cache takes no trees: branches are read one after the other
            logits = torch.stack([self._alone(nodes[:, tree.ancestors[i]]) for i in range(tree.q)], 1)
        after = [torch.cat([ids[:, :-1], nodes[:, tree.ancestors[i]]], 1) for i in range(tree.q)]
        return torch.stack([self.turn.score(text, logits[:, i]) for i, text in enumerate(after)], 1)

    def _alone(self, branch: Tensor) -> Tensor:
        logits = self.reader.read(branch)[:, -1]
        self.reader.forget(branch.shape[1])
        return logits

    def _fixed(self, ids: Tensor, levels: tuple[int, ...]) -> Draft:
        """The same shape in every row: so many children below each node of a level."""
        tokens, probs = ids[:, :0], None
        parents = ids.new_zeros(0)
        frontier = [-1]
        for width in levels:
            scores = self._scores(ids, tokens, parents)[:, [f + 1 for f in frontier]]
            width = min(width, scores.shape[-1])
            new = draw_several(scores, width) if self.turn.sample else scores.topk(width, -1).indices
            start = len(parents)
            above = [f for f in frontier for _ in range(width)]
            parents = torch.cat([parents, parents.new_tensor(above)])
            tokens = torch.cat([tokens, new.flatten(1)], 1)
            if self.turn.sample:
                drawn = scores.softmax(-1).repeat_interleave(width, 1)
                probs = drawn if probs is None else torch.cat([probs, drawn], 1)
            frontier = list(range(start, len(parents)))
        return Draft(tokens, probs, parents=parents)

    def _beams(self, ids: Tensor, levels: tuple[int, ...]) -> Draft:
        """Levels of ``beam`` different sequences, of another shape in each row."""
        b, beam = len(ids), self.options.beam or 1
        rows = [(ids.new_zeros(0), ids.new_zeros(0)) for _ in range(b)]
        drawn: list[list[Tensor]] = [[] for _ in range(b)]
        noisy, logp = [[torch.zeros(1, device=ids.device) for _ in range(b)] for _ in range(2)]
        frontier = [[-1] for _ in range(b)]
        for _ in levels:
            tokens, parents = side_by_side(rows)
            scores = self._scores(ids, tokens, parents)
            shared = b > 1 and len(parents) > len(rows[0][0])
            start = 0
            for r in range(b):
                size = len(rows[r][0])
                offset = start if shared else 0
                here = scores[r, [0 if f < 0 else 1 + offset + f for f in frontier[r]]]
                if self.turn.sample:
                    up, new, noisy[r], logp[r] = beam_step(noisy[r], logp[r], here, beam)
                else:
                    chance = logp[r][:, None] + here.log_softmax(-1)
                    best = chance.flatten().topk(min(beam, chance.numel()))
                    up, new, logp[r] = best.indices // here.shape[1], best.indices % here.shape[1], best.values
                above = torch.tensor([frontier[r][i] for i in up.tolist()], device=ids.device)
                rows[r] = torch.cat([rows[r][0], new]), torch.cat([rows[r][1], above])
                drawn[r].append(here.softmax(-1)[up])
                frontier[r] = list(range(size, size + len(new)))
                start += size
        tokens, parents = side_by_side(rows)
        if not self.turn.sample:
            return Draft(tokens, parents=parents)
        probs, at = torch.zeros(b, tokens.shape[1], drawn[0][0].shape[-1], device=ids.device), 0
        apart = tokens.shape[1] > len(rows[0][0])
        for r in range(b):
            mine = torch.cat(drawn[r])
            probs[r, at : at + len(mine)] = mine
            at += len(mine) if apart else 0
        return Draft(tokens, probs, parents=parents)
