"""Zero-TPrune: rank tokens by a walk on the attention graph, prune look-alikes among the lower half, then the lowest.

Wang et al., "Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in Pre-Trained
Transformers", CVPR 2024.
https://arxiv.org/abs/2305.17328

Attention is the matrix of a graph, and a token matters if tokens that matter attend to it: a weighted PageRank for each
head, joined as a root mean square, so that what one head finds is not averaged away. Heads whose ranking is nearly
flat, or peaks on single tokens, do not count. The ranking splits the tokens into a lower and an upper half; of the
lower one, tokens most like one of the upper half leave first, and then those that matter least.

Written from the paper's description, as no code of the authors is public; the shares of the two steps and the bounds on
a head's variance (here of scores relative to their mean) are options. The map of one head is held at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import SignalError
from ..method import Many, Range, method, option
from ..parts.budget import budget
from ..parts.flow import walks
from ..parts.stages import due, equally_long, even, starts
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in Pre-Trained Transformers",
    url="https://arxiv.org/abs/2305.17328",
    systems=("S023",),
    needs=("last_heads", "metric"),
    cost="the block's attention and a few products with a vector for each head, a similarity of two halves, at a stage",
)
class ZeroTPrune:
    """Pruning by importance, then likeness, on the attention graph."""

    keeps: tuple[float, ...] = option(
        (0.85, 0.7, 0.55), Many(Range(0, 1, open_low=True)), "shares of the original patches left by the stages"
    )
    blocks: tuple[int, ...] | None = option(
        None, Many(Range(0, kind=int)), "in these blocks (0-based); default: evenly spread over the depth"
    )
    alike: float = option(0.5, Range(0, 1), "share of what leaves that leaves because it is like a token that matters")
    steps: tuple[int, ...] = option((30, 5, 1), Many(Range(1, kind=int), 3), "walk in the first, middle, last third")
    variance: tuple[float, ...] = option((0.01, 0.7), Many(Range(0), 2), "heads count whose scores vary this much")

    def __post_init__(self) -> None:
        equally_long(self, "blocks", "keeps")

    def at(self, layers: int) -> tuple[int, ...]:
        """The blocks given, or evenly spread ones."""
        return tuple(dict.fromkeys(self._starts(layers)))

    def _starts(self, layers: int) -> tuple[int, ...]:
        return starts(self.blocks, even(len(self.keeps)), layers)

    def importance(self, tokens: Tokens) -> Tensor:
        """Queries and keys of this block -> (B, n), how much each token matters."""
        if tokens.q is None or tokens.k is None:
            raise SignalError("zero_tprune needs last_heads, the block's queries and keys; they are None")
        steps = self.steps[min(2, 3 * tokens.layer // max(1, tokens.layers))]
        each = walks(tokens.q, tokens.k, steps) * tokens.n  # (B, H, n)
        spread = each.var(-1, correction=0, keepdim=True)
        fit = (spread >= self.variance[0]) & (spread <= self.variance[1])
        fit = (fit | ~fit.any(1, keepdim=True)).float()
        return ((each.square() * fit).sum(1) / fit.sum(1)).sqrt()

    def reduce(self, tokens: Tokens) -> Reduction:
        """As :meth:`importance`, tokens.metric (B, n, d) -> selection of m."""
        p, full = tokens.prefix, tokens.n if tokens.full is None else tokens.full
        b, n = tokens.x.shape[0], tokens.n - p
        drop = n - budget(due(self._starts(tokens.layers), self.keeps, tokens.layer), n, full - p)
        if not drop:
            return Reduction.identity(b, tokens.n, tokens.x.device)
        score = self.importance(tokens)[:, p:]
        rank = score.argsort(stable=True, dim=-1, descending=True)
        upper, lower = rank[:, : (n + 1) // 2], rank[:, (n + 1) // 2 :]
        unit = normalize(tokens.need("metric")[:, p:].float(), dim=-1)
        rows = torch.arange(b, device=rank.device)[:, None]
        likeness = (unit[rows, lower] @ unit[rows, upper].mT).amax(-1)
        double = min(round(self.alike * drop), lower.shape[1])
        first = lower.gather(1, likeness.argsort(stable=True, dim=-1, descending=True)[:, :double])
        left = score.scatter(1, first, torch.inf)  # those that left already are not the lowest
        last = left.argsort(stable=True, dim=-1, descending=True)[:, n - (drop - double) :]
        kept = torch.ones(b, tokens.n, dtype=torch.bool, device=rank.device)
        return Reduction.from_mask(kept.scatter(1, torch.cat([first, last], 1) + p, False))
