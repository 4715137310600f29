"""D-CoDe: keep the strongest tokens of each frame, and average those that are nearly the same.

Huang et al., "D-CoDe: Scaling Image-Pretrained VLMs to Video via Dynamic Compression and Question Decomposition",
EMNLP 2025.
https://arxiv.org/abs/2510.08818

A token's length says how much it has to tell. Of each frame the longest tokens stay; then, from the longest on, each
takes in all that are left with a cosine above a threshold. Which frames there are to begin with is ``dcode_frames``.

Departures: in the authors' code a group is averaged from tokens that may already be averages or belong to a removed
one, and a token goes under with all it took in when an earlier, removed one is similar too (``variant="code"``); here
each token goes to one group, and no group is lost. Tokens keep the order of their places, where the code lists them by
length. Their element-wise maximum is no average and only a function here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.film import Film
from ..parts.merge import uneven
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="D-CoDe: Scaling Image-Pretrained VLMs to Video via Dynamic Compression and Question Decomposition",
    url="https://arxiv.org/abs/2510.08818",
    systems=("S037",),
    needs=("grid", "features"),
    cost="one k x k similarity of the k longest tokens of each frame, k steps",
    vectors=("dcode",),
)
class DCoDe:
    """The longest tokens of each frame, without repetitions."""

    top: float | int = option(0.5, Keep(), "share (float) or number (int) of each frame's tokens that are considered")
    threshold: float = option(0.8, Range(-1, 1), "cosine from which tokens count as the same")
    average: str = option("mean", OneOf(("mean", "weighted_mean")), "weigh tokens equally or by their length")
    variant: str = option("paper", OneOf(("paper", "code")), "how groups are averaged; see above")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), tokens.grid (B, n, 3) -> map to the groups of each frame."""
        film, b = Film(tokens), len(tokens.x)
        norm = tokens.x.float().norm(dim=-1)
        longest = film.laid(norm, -torch.inf).flatten(0, 1)  # (B F, P)
        counts = torch.tensor([budget(self.top, s) if s else 0 for s in film.sizes.flatten().tolist()])
        counts = counts.to(norm.device)
        best = strongest(longest, int(counts.max()))
        there = torch.arange(best.shape[1], device=norm.device) < counts[:, None]
        at = film.table.flatten(0, 1).gather(1, best).masked_fill(~there, -1)  # (B F, k) positions
        near = normalize(film.laid(tokens.x.float()).flatten(0, 1), dim=-1)
        near = near.gather(1, best[..., None].expand(-1, -1, near.shape[-1]))
        weight = longest.gather(1, best).masked_fill(~there, 0)
        if self.variant == "code":
            return self._as_code(near, at, weight, tokens)
        head = absorbed(near, there, self.threshold)
        into = torch.full((b, tokens.n + 1), -1, device=norm.device)
        target = at.gather(1, head.clamp(min=0)).masked_fill(head < 0, -1)
        spare = torch.where(at >= 0, at, tokens.n)
        into = into.scatter(1, spare.view(b, -1), target.view(b, -1))[:, : tokens.n]
        size = tokens.size
        if self.average == "weighted_mean":
            size = norm.clamp(min=1e-6) if size is None else size * norm.clamp(min=1e-6)
        return uneven(into, size)

    def _as_code(self, near: Tensor, at: Tensor, weight: Tensor, tokens: Tokens) -> Reduction:
        """The same with averages of averages: what is folded are the shares themselves."""
        b, k = len(tokens.x), at.shape[1]
        shares = torch.eye(k, device=near.device).expand(len(at), k, k)
        shares, left = fold(shares, near, weight, self.threshold, self.average, at >= 0)
        rows = []
        for mine, row, stays in zip(shares.chunk(b), at.chunk(b), left.chunk(b)):
            wide = mine.new_zeros(*mine.shape[:2], tokens.n + 1)
            wide = wide.scatter(2, torch.where(row >= 0, row, tokens.n)[:, None].expand_as(mine), mine)
            keep, order = row[stays].sort()
            rows.append(Reduction.dense(wide[stays][order][None, :, : tokens.n], keep[None]))
        return Reduction.stack(rows)


def strongest(norm: Tensor, k: int) -> Tensor:
    """The k highest of each row, highest first, equal ones from the left. norm (R, P) -> (R, min(k, P))."""
    order: Tensor = norm.argsort(stable=True, dim=-1, descending=True)
    return order[:, :k]


def absorbed(unit: Tensor, there: Tensor, threshold: float) -> Tensor:
    """The first token that each one is similar to, of those that went to no other. unit (R, k, D), there (R, k) bool.

    -> (R, k) int64, -1 where no token is there.
    """
    close = (unit @ unit.mT >= threshold) & there[:, None]
    close.diagonal(dim1=1, dim2=2).copy_(there)
    head = torch.full(there.shape, -1, device=there.device)
    for i in range(there.shape[1]):
        takes = close[:, i] & (head < 0) & (head[:, i : i + 1] < 0)
        head = head.masked_fill(takes, i)
    return head


def fold(
    x: Tensor, like: Tensor, norm: Tensor, threshold: float, average: str, there: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One after the other, each token that is left becomes the average of all that were similar to it at the start.

    Values are replaced as it goes, by "mean", "weighted_mean" (by norm) or "max" of channels; of the similar tokens all
    but the first are gone from then on, and where that is another one the token itself is.

    x (R, k, C) values, like (R, k, D) what is compared, norm (R, k), there (R, k) bool or all -> the values, and
    (R, k) bool those left.
    """
    unit = normalize(like.float(), dim=-1)
    left = torch.ones(norm.shape, dtype=torch.bool, device=x.device) if there is None else there.clone()
    close = (unit @ unit.mT >= threshold) & left[:, None]
    x = x.float().clone()
    several = close.sum(-1) > 1
    after = close & (close.long().cumsum(-1) > 1)  # all but the first of each set
    for i in range(x.shape[1]):
        rows = (left[:, i] & several[:, i]).nonzero()[:, 0]
        if not len(rows):
            continue
        mine = close[rows, i]
        if average == "max":
            x[rows, i] = x[rows].masked_fill(~mine[..., None], -torch.inf).amax(1)
        else:
            weight = mine * (norm[rows].float() if average == "weighted_mean" else 1.0)
            x[rows, i] = ((weight / weight.sum(-1, keepdim=True))[:, None] @ x[rows])[:, 0]
        left[rows] &= ~after[rows, i]
    return x, left
