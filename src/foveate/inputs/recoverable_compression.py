"""RecoverableCompression: prune by what the encoder sees, recover what the question asks for, merge the rest.

Chen et al., "Recoverable Compression: A Multimodal Vision Token Recovery Mechanism Guided by Text Information",
AAAI 2025.
https://arxiv.org/abs/2409.01179

Local outlier factors decide three numbers: how many tokens stand out in the class token's attention and stay, how many
of the pruned ones stand out in similarity with the question and come back, and how many of what is left become centres
that take in their 32 most similar neighbours (by keys, and by the question). One token sums up what is left then.

Departures: neighbours and summary are means weighted by attention; with ``keep`` the three numbers are scaled to meet
the budget. ``variant="code"`` does as the authors' code: sums that are not normalised, a number of centres that goes by
the width of the features, keys looked up at wrong positions, other centres among the neighbours, no summary without
centres. There recovered tokens come first, then centres, then the summary; here all keep their place in the image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..method import Keep, Many, OneOf, Range, method, option
from ..parts.absorb import absorb, rows
from ..parts.budget import budget
from ..parts.outliers import local_outlier_factor
from ..parts.signals import finite, keys, likeness, shared_space, wide_attention
from ..reduction import Reduction
from ..tokens import Tokens


class Parts(NamedTuple):
    """Of one row: positions that stay, all others, which of those are centres (best first), and the outlier shares."""

    kept: Tensor
    rest: Tensor
    centre: Tensor
    ratios: tuple[float, float, float]

    @property
    def positions(self) -> Tensor:
        """What each token left inherits: the kept ones, the centres, and the last of the others for the summary."""
        other = torch.ones_like(self.rest, dtype=torch.bool).index_fill(0, self.centre, False)
        return torch.cat([self.kept, self.rest[self.centre], self.rest[other][-1:]])


@method(
    title="Recoverable Compression: A Multimodal Vision Token Recovery Mechanism Guided by Text Information",
    url="https://arxiv.org/abs/2409.01179",
    systems=("S004",),
    needs=(
        "wide_attention|cls_attention|received_attention",
        "keys|metric",
        "image_embeds|features",
        "text_embeds|text",
    ),
    cost="three sorts of n, one c x n similarity",
    vectors=("recoverable_compression",),
)
class RecoverableCompression:
    """Outliers of attention, outliers of text similarity, and merged clusters."""

    keep: float | int | None = option(None, Keep(), "share (float) or number (int) of tokens left; default: outliers")
    neighbours: int = option(32, Range(1, kind=int), "tokens merged into each centre")
    text: float = option(50.0, Range(0), "weight of the question when neighbours are chosen")
    windows: tuple[int, ...] = option((20, 20, 10), Many(Range(1, kind=int), 3), "neighbours of each outlier factor")
    variant: str = option("paper", OneOf(("paper", "code")), "how tokens are merged; see above")

    def similarity(self, tokens: Tokens) -> Tensor:
        """Mean cosine with the text over the square root of their width, (B, n)."""
        near: Tensor = likeness(tokens) * shared_space(tokens)[0].shape[-1] ** -0.5
        return near

    def split(self, weight: Tensor, near: Tensor, width: int, m: int | None = None) -> Parts:
        """Of one row: attention and text similarity, (n,) each, width of the features, and how many are to be left."""
        n, code = len(weight), self.variant == "code"
        seen = _outliers(weight, self.windows[0])
        first = int(n * seen)
        floor = near.index_fill(0, _best(weight, first), float(near.min()))
        asked = _outliers(floor, self.windows[1])
        second = int((n - first) * asked)
        kept, rest = _pick(weight, near, first, second)
        apart = _outliers(weight[rest], self.windows[2])
        third = min(len(rest), int((width if code else len(rest)) * apart))
        if m is not None:
            seats, total = max(0, m - 1), first + second + third
            upto = [round(seats * k / total) if total else seats for k in (first, first + second)]
            kept, rest = _pick(weight, near, upto[0], upto[1] - upto[0])
            third = seats - upto[1]
        centre = _best(weight[rest], third)
        return Parts(kept, rest, centre, (seen, asked, apart))

    def shares(self, parts: Parts, weight: Tensor, near: Tensor, unit: Tensor) -> Tensor:
        """What each token of one row is made of: the kept ones, the centres, and the summary if there is one -> (m, n).

        weight, near (n,) as in :meth:`split`, unit (n, d) keys of length 1.
        """
        n, (kept, rest, centre, _) = len(weight), parts
        out = [_alone(kept, n)]
        other = torch.ones_like(rest, dtype=torch.bool).index_fill(0, centre, False)
        if self.variant == "code":
            if not len(centre):
                return out[0]
            like = unit[centre] @ unit[: len(rest)].mT + self.text * near[rest]
            like = like.scatter(1, centre[:, None], -torch.inf)
            out.append(absorb(like, rest[centre], rest, weight, self.neighbours, average=False))
        else:
            like = unit[rest[centre]] @ unit[rest[other]].mT + self.text * near[rest[other]]
            out.append(absorb(like, rest[centre], rest[other], weight, self.neighbours))
        if bool(other.any()):
            part = weight[rest[other]]
            if self.variant != "code":
                part = part / part.sum() if part.sum() > 0 else torch.full_like(part, 1 / len(part))
            out.append(torch.zeros_like(weight).scatter(0, rest[other], part)[None])
        return torch.cat(out)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.wide_attention (B, n), keys (B, n, d), image_embeds and text_embeds, or what stands in for them."""
        weights, nears, units, n = wide_attention(tokens), self.similarity(tokens), keys(tokens), tokens.n
        m = None if self.keep is None else budget(self.keep, n)
        if m == n:
            return Reduction.identity(tokens.x.shape[0], n, tokens.x.device)
        out = []
        for weight, near, unit in zip(weights, nears, units):
            always = (~weight.isfinite()).nonzero()[:, 0][:m]
            free = torch.ones_like(weight, dtype=torch.bool).index_fill(0, always, False).nonzero()[:, 0]
            left = None if m is None else m - len(always)
            own = finite(weight)[free]
            parts = self.split(own, near[free], tokens.x.shape[-1], left)
            shares = self.shares(parts, own, near[free], unit[free])[:left]
            wide = torch.zeros(len(shares), n, device=weight.device).index_copy(1, free, shares)
            matrix = torch.cat([_alone(always, n), wide])
            out.append(rows(matrix, torch.cat([always, free[parts.positions[: len(shares)]]])))
        return Reduction.stack(out)


def _outliers(value: Tensor, k: int) -> float:
    """Share of values (n,) with a local outlier factor above 1.5."""
    return int((local_outlier_factor(value[None], k) > 1.5).sum()) / max(1, len(value))


def _best(score: Tensor, k: int) -> Tensor:
    """Positions of the k highest, best first."""
    return score.argsort(stable=True, descending=True)[:k]


def _pick(weight: Tensor, near: Tensor, first: int, second: int) -> tuple[Tensor, Tensor]:
    """Those looked at most, then of the others those most like the text: (k,) and all that remain, ascending."""
    seen = _best(weight, first)
    asked = _best(near.index_fill(0, seen, -torch.inf), second)
    kept = torch.cat([seen, asked]).sort().values
    return kept, torch.ones_like(weight, dtype=torch.bool).index_fill(0, kept, False).nonzero()[:, 0]


def _alone(at: Tensor, n: int) -> Tensor:
    """Shares of tokens that stay as they are. at (m,) -> (m, n)."""
    return torch.zeros(len(at), n, device=at.device).scatter(1, at[:, None], 1.0)
