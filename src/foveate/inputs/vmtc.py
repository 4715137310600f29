"""VMTC: keep the primary visual tokens as they are, and condense the others by clustering.

Yang et al., "Enhancing Instruction-Following Capability of Visual-Language Models by Reducing Image Redundancy", 2024.
https://arxiv.org/abs/2411.15453

Primary tokens are those that the class token attends to most. The redundant rest is clustered by k-means and every
cluster is averaged into one token, so the image takes less room among the instructions and loses little. (The paper's
second strategy, which inhibits attention between unrelated text and visual tokens in the LLM, is ``cmai``.)

Written from the paper: clusters are of directions, start from evenly spaced tokens, and a starting token stays in its
cluster and gives it its position, so none is empty and the budget is exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..parts.kmeans import even, seeded
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Enhancing Instruction-Following Capability of Visual-Language Models by Reducing Image Redundancy",
    url="https://arxiv.org/abs/2411.15453",
    systems=("S008",),
    needs=("cls_attention|received_attention",),
    cost="n x clusters similarities in every round",
)
class VMTC:
    """Primary tokens, and k-means averages of the rest."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of tokens left")
    primary: float = option(0.5, Range(0, 1), "share of the tokens left that are kept as they are")
    rounds: int = option(3, Range(0, kind=int), "rounds of k-means")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), cls_attention (B, H, n) or received_attention (B, n) -> map to m tokens."""
        n, m = tokens.n, budget(self.keep, tokens.n)
        first = round(self.primary * m)
        rank = self._score(tokens).argsort(stable=True, dim=-1, descending=True)
        rest = rank[:, first:].sort(-1).values
        into = torch.arange(n, device=rank.device).repeat(len(rank), 1)
        if m == first:  # no cluster: the rest is dropped
            return Reduction.merge(into.scatter(1, rest, -1), tokens.size)
        if m < n:
            x = tokens.x.gather(1, rest[..., None].expand(-1, -1, tokens.x.shape[-1]))
            seeds = even(n - first, m - first, rank.device).expand(len(rank), -1)
            into = into.scatter(1, rest, rest.gather(1, seeded(x, seeds, self.rounds)))
        return Reduction.merge(into, tokens.size)

    def _score(self, tokens: Tokens) -> Tensor:
        seen = tokens.need("cls_attention", "received_attention").float()
        return seen.mean(1) if seen.ndim == 3 else seen
