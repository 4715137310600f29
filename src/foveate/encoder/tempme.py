"""TempMe: merge patches within frames, then join neighbouring clips and merge across them, deeper and deeper.

Shen et al., "TempMe: Video Temporal Token Merging for Efficient Text-Video Retrieval", ICLR 2025.
https://arxiv.org/abs/2409.01156

At a block that joins clips, the tokens of neighbouring clips become one sequence (class tokens first), similar patches
of it are merged before attention (matched by the tokens themselves), and after attention a few more (matched by keys),
as in every other block. Matching is ToMe's, class tokens are never merged, means are weighted by size, and attention
adds log(size) to its logits.

:meth:`TempMe.joined` and :meth:`TempMe.before` are the step before attention, :meth:`TempMe.reduce` the one after it.
Joining needs clips of one video in neighbouring rows; a tower that gets frames as a batch of images has only the step
after attention. The paper's time codes and LoRA are weights of a trained model. Survivors stay in order;
``variant="code"`` lists them as the code does, sources before destinations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import OptionError
from ..method import Many, OneOf, Range, method, option
from ..parts.merge import Match, bipartite
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="TempMe: Video Temporal Token Merging for Efficient Text-Video Retrieval",
    url="https://arxiv.org/abs/2409.01156",
    systems=("S030",),
    needs=("metric", "size"),
    training="light: codes for time and LoRA, 0.5M weights; the merging itself has none",
    cost="one n/2 x n/2 similarity a block, two where clips are joined",
    vectors=("tempme",),
)
class TempMe:
    """Progressive merging of frames and clips."""

    within: tuple[int, ...] = option(
        (8,), Many(Range(0, kind=int)), "tokens merged away after attention, for each block; the last for all after it"
    )
    join: tuple[int, ...] = option(
        (1,), Many(Range(1, kind=int)), "how many neighbouring clips become one before each block's attention; then 1"
    )
    across: tuple[int, ...] = option(
        (0,), Many(Range(0, kind=int)), "tokens merged away before each block's attention; then 0"
    )
    proportional: bool = option(True, OneOf((True, False)), "add log(size) to later attention logits")
    variant: str = option("spatial", OneOf(("spatial", "code")), "how survivors are listed; see above")

    def __post_init__(self) -> None:
        if not self.within:
            raise OptionError("'within' of tempme must name at least one block. Got ().")

    def at(self, layers: int) -> tuple[int, ...]:
        """Every block."""
        return tuple(range(layers))

    def clips(self, layer: int) -> int:
        """How many neighbouring clips this block joins."""
        return self.join[layer] if layer < len(self.join) else 1

    def joined(self, x: Tensor, prefix: int, clips: int) -> Tensor:
        """x (B * clips, prefix + n, ...) -> (B, clips * (prefix + n), ...), what is in the prefixes first."""
        rows = x.unflatten(0, (-1, clips))
        return torch.cat([rows[:, :, :prefix].flatten(1, 2), rows[:, :, prefix:].flatten(1, 2)], 1)

    def before(self, tokens: Tokens) -> Reduction:
        """Before attention: tokens.x (B, n, D) of joined clips, tokens.size (B, n) -> merge."""
        return self._merge(tokens.x, self.across[tokens.layer] if tokens.layer < len(self.across) else 0, tokens)

    def reduce(self, tokens: Tokens) -> Reduction:
        """After attention: tokens.metric (B, n, d), tokens.size (B, n) -> merge."""
        return self._merge(tokens.need("metric"), self.within[min(tokens.layer, len(self.within) - 1)], tokens)

    def drops(self, n: int, prefix: int, layer: int, layers: int) -> int:
        """How many of n tokens, ``prefix`` ones included, this block merges away after attention."""
        return min(self.within[min(layer, len(self.within) - 1)], (n - prefix) // 2)

    def _merge(self, metric: Tensor, r: int, tokens: Tokens) -> Reduction:
        r = min(r, (tokens.n - tokens.prefix) // 2)
        match: Match = bipartite(metric, r, tokens.prefix)
        out = Reduction.merge(match.into, tokens.size)
        if self.variant != "code" or not r:
            return out
        keep, p = out.keep, tokens.prefix
        rank = (keep % 2 * tokens.n + keep).masked_fill(keep < p, -1)  # class tokens, then even, then odd ones
        return out.listed(keep.gather(1, rank.argsort(stable=True, dim=-1)))
