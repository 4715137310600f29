"""PruMerge: keep the tokens whose class attention stands out, and merge the pruned ones into them.

Shang et al., "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models", ICCV 2025.
https://arxiv.org/abs/2403.15388

The class token's attention is sparse; tokens above its third quartile by 1.5 interquartile ranges stay, so the image
decides how many. Each becomes the mean, weighted by that attention, of itself and the 32 pruned tokens with the most
similar keys. ``plus`` (PruMerge+) keeps about three times as many more, spread evenly over the image.

``variant="code"``: the authors' code adds the neighbours' weighted sum to the token without normalising, other kept
tokens among them, appends a weighted sum of all pruned tokens, draws the quartiles over the whole batch, and takes
``keep`` for the share chosen by attention alone. There tokens come in the order of attention, here in the image's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.absorb import absorb, rows
from ..parts.budget import budget
from ..parts.outliers import upper_outliers
from ..parts.signals import finite, keys, wide_attention
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models",
    url="https://arxiv.org/abs/2403.15388",
    needs=("wide_attention|cls_attention|received_attention", "keys|metric"),
    cost="one attention row, one m x n similarity",
    vectors=("prumerge",),
)
class PruMerge:
    """Outlier selection, then merging by keys."""

    keep: float | int | None = option(None, Keep(), "share (float) or number (int) of tokens left; default: outliers")
    plus: bool = option(False, OneOf((False, True)), "also keep tokens spread evenly over the image")
    neighbours: int = option(32, Range(1, kind=int), "tokens merged into each kept one")
    variant: str = option("paper", OneOf(("paper", "code")), "how tokens are merged; see above")

    def choose(self, tokens: Tokens) -> list[Tensor]:
        """The class attention -> for each row the positions kept, by attention, then the evenly spread ones.

        The code's form with ``plus`` and ``keep`` may list a position twice.
        """
        score, n = wide_attention(tokens), tokens.n
        order = score.argsort(stable=True, dim=-1, descending=True)
        if self.variant == "code":
            share = self.keep or int(upper_outliers(score.reshape(1, -1)).sum()) / max(1, score.numel())
            k = int(n * share) if isinstance(share, float) else share
            return [
                self._code_spread(row, k, 1 / share if isinstance(share, float) and k else n / max(1, k))
                for row in order
            ]
        outliers = upper_outliers(score).sum(-1).clamp(min=1).tolist()
        chosen = []
        for row, k in zip(order, outliers):
            m = min(n, 4 * k if self.plus else k) if self.keep is None else budget(self.keep, n)
            first = row[: max(1, m // 4) if self.plus else m]
            rest = _rest(first, n)
            spread = torch.arange(m - len(first), device=row.device) * len(rest) // max(1, m - len(first))
            chosen.append(torch.cat([first, rest[spread]]))
        return chosen

    def _code_spread(self, order: Tensor, k: int, period: float) -> Tensor:
        n, step, first = len(order), int(period), order[:k]
        if not self.plus:
            return first
        if self.keep is not None:
            return torch.cat([first, torch.arange(step // 2, n - 1, max(1, step), device=order.device)])
        grid = torch.arange(0, n - 1, max(1, int(step / 3)), device=order.device)
        return torch.cat([first, grid[~torch.isin(grid, first)]])

    def shares(self, tokens: Tokens, row: int, kept: Tensor) -> Tensor:
        """What each kept token is made of: kept (m,) of one row -> (m, n), in the code's form (m + 1, n)."""
        weight, unit = wide_attention(tokens)[row], keys(tokens)[row]
        rest = _rest(kept, tokens.n)
        others = torch.cat([kept, rest]) if self.variant == "code" else rest
        near = unit[kept] @ unit[others].mT
        near[~weight[kept].isfinite()] = -torch.inf  # what always stays also stays as it is
        if self.variant == "paper":
            return absorb(near, kept, others, finite(weight), self.neighbours)
        near.fill_diagonal_(-torch.inf)
        summary = torch.zeros_like(weight).scatter(0, rest, finite(weight)[rest])
        return torch.cat([absorb(near, kept, others, finite(weight), self.neighbours, False), summary[None]])

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.wide_attention (B, n), keys (B, n, d), or what stands in for them -> map to m mixtures."""
        out = []
        for b, kept in enumerate(self.choose(tokens)):
            shares = self.shares(tokens, b, kept)
            last = _rest(kept, tokens.n)[-1:]  # where the summary of the code's form goes
            out.append(rows(shares[: len(kept) + len(last)], torch.cat([kept, last])[: len(shares)]))
        return Reduction.stack(out)


def _rest(kept: Tensor, n: int) -> Tensor:
    """The other positions, ascending; of a list with repetitions as many of the first are missing, as in the code."""
    rest = torch.ones(n, dtype=torch.bool, device=kept.device).scatter(0, kept, False).nonzero()[:, 0]
    return rest[max(0, len(rest) + len(kept) - n) :]
