"""DiffRate: prune the tokens that matter least, merge the next ones, at rates found by training for each block.

Chen et al., "DiffRate: Differentiable Compression Rate for Efficient Vision Transformers", ICCV 2023.
https://arxiv.org/abs/2305.17997

Tokens are ranked by the class token's attention. The lowest leave; of the rest, those below a second bound join the
most similar token above it (cosine of the tokens themselves, not of keys). Both bounds differ from block to block: the
paper learns them through the loss, and here they are options, counted without the class token.

Departures from the authors' code, which ``variant="code"`` follows: the code averages merged tokens without regard to
the patches that each stands for, and adds to the destination's size the source's size times their similarity (which can
be negative); here means are weighted by size, and sizes add up. The code leaves tokens in order of rank. A tower
without class token ranks by the mean attention received.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import OptionError
from ..method import Keep, Many, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.merge import Match, shift, split
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="DiffRate: Differentiable Compression Rate for Efficient Vision Transformers",
    url="https://arxiv.org/abs/2305.17997",
    systems=("S016",),
    needs=("cls_attention|received_attention", "features", "size"),
    training="light: the rates; they can also be given by hand",
    cost="one attention row for each head, a sort, and a similarity of merged with kept tokens, at each block",
    vectors=("diffrate",),
)
class DiffRate:
    """Pruning, then merging, with bounds for each block."""

    prune: tuple[float | int, ...] = option(
        (0.9, 0.75, 0.6),
        Many(Keep()),
        "patches left by pruning, a share of those that entered (float) or a number (int)",
    )
    merge: tuple[float | int, ...] = option((0.85, 0.65, 0.5), Many(Keep()), "patches left by the merging that follows")
    blocks: tuple[int, ...] | None = option(
        None, Many(Range(0, kind=int)), "in these blocks (0-based); default: every one, or spread evenly over the depth"
    )
    proportional: bool = option(True, OneOf((True, False)), "add log(size) to later attention logits")
    variant: str = option("weighted", OneOf(("weighted", "code")), "how merged tokens are averaged; see above")

    def __post_init__(self) -> None:
        if len(self.prune) != len(self.merge) or len(self.blocks or self.prune) != len(self.prune):
            raise OptionError(
                f"'prune', 'merge' and 'blocks' of diffrate must be equally long. Got {self.prune!r}, {self.merge!r} "
                f"and {self.blocks!r}."
            )

    def at(self, layers: int) -> tuple[int, ...]:
        """The blocks given, all when there is a bound for each, or else evenly spread ones."""
        return tuple(dict.fromkeys(self._blocks(layers)))

    def _blocks(self, layers: int) -> tuple[int, ...]:
        steps = len(self.prune)
        even = range(layers) if steps == layers else [layers * s // (steps + 1) for s in range(1, steps + 1)]
        return tuple(even) if self.blocks is None else self.blocks

    def match(self, tokens: Tokens) -> Match:
        """Attention (B, H, n) or (B, n) and tokens.x (B, n, D) -> who is dropped, and who joins whom."""
        p, full = tokens.prefix, tokens.n if tokens.full is None else tokens.full
        score = tokens.need("cls_attention", "received_attention").float()
        rank = (score.mean(1) if score.ndim == 3 else score)[:, p:].argsort(stable=True, dim=-1, descending=True)
        step = max(i for i, block in enumerate(self._blocks(tokens.layers)) if block == tokens.layer)
        first = budget(self.prune[step], tokens.n - p, full - p)
        last = min(budget(self.merge[step], tokens.n - p, full - p), first)
        match = split(tokens.x[:, p:], rank[:, last:first], rank[:, :last])
        return shift(Match(match.into.scatter(1, rank[:, first:], -1), match.order), p)

    def sizes(self, tokens: Tokens) -> Tensor:
        """The sizes that the authors' code goes on with, in the order of its tokens: (B, m)."""
        match, unit = self.match(tokens), normalize(tokens.x.float(), dim=-1)
        size = torch.ones_like(unit[..., 0]) if tokens.size is None else tokens.size.float()
        to = match.into.clamp(min=0)
        near = (unit * unit.gather(1, to[..., None].expand_as(unit))).sum(-1)
        own = match.into == torch.arange(tokens.n, device=to.device)
        share = torch.where(own, size, size * near) * (match.into >= 0)
        return torch.zeros_like(size).scatter_add(1, to, share).gather(1, match.order)

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`match`, tokens.size (B, n) -> map that prunes and merges."""
        match = self.match(tokens)
        if self.variant == "code":
            return Reduction.merge(match.into).listed(match.order)
        return Reduction.merge(match.into, tokens.size)
