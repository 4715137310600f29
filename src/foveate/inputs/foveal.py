"""foveal: keep the tokens that stand for what the picture, clip and question need, and fold the rest into them.

The default of foveate; docs/foveal.md tells how it was found and what each part brings.

A token's need is how far it lies from the mean of all, times how well it fits the question. Tokens are picked so that
every need has a pick like it (weighted facility location on directions from the mean): a plain background needs next
to nothing, a thing of many tokens needs one or two, and a place that stays the same through a clip is picked once. What
a pick stands for is folded into it, weighted by need. One rule for images and videos; nothing is trained.

``keep`` is a cap: with ``enough`` below 1 picking stops once that share of all need is met, so plain pictures cost
less. Every part can be switched off: ``salient=0`` (all tokens need the same), ``query=0``, ``fold=0`` (a pure
selection), ``fine=0`` and ``enough=1`` (the cap is always used up).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..parts.facility import fitting, power, stand_for
from ..parts.film import Film
from ..reduction import Reduction
from ..tokens import Tokens

POOL = 1024  # tokens of most need that are compared all with all; more where more than a quarter of them is picked


@method(
    title="foveal: keep the tokens that stand for what the picture, clip and question need",
    url="docs/foveal.md",
    needs=("grid", "text"),
    cost="one product of directions of 4 m tokens with each other, a few rows of it for each of m steps",
    exempt={"arxiv": "foveate's own method"},
)
class Foveal:
    """Weighted facility location with recovery."""

    keep: float | int = option(0.1, Keep(), "share (float) or number (int) of visual tokens to keep at most")
    enough: float = option(1.0, Range(0, 1, open_low=True), "stop once this share of all need is met; 1: never")
    salient: float = option(2.0, Range(0), "how much more tokens far from the mean need")
    query: float = option(0.1, Range(0), "how much more tokens that fit the question need")
    fine: float = option(0.0, Range(0), "how much more tokens unlike their neighbours need, such as small text")
    sharp: float = option(1.5, Range(0, open_low=True), "how alike a pick must be to stand for a token")
    fold: float = option(0.6, Range(0, 1), "share of a kept token that comes from those it stands for")

    def blind(self) -> Foveal:
        """The same rule where the question is not known yet."""
        return replace(self, query=0.0)

    def needs(self, tokens: Tokens, away: Tensor, unit: Tensor) -> Tensor:
        """How much each token asks to be stood for, 1 on average. away, unit (B, n, D) -> (B, n) float32."""
        need = _about_one(away.square().sum(-1)) ** self.salient
        if self.query and tokens.text is not None and tokens.text.shape[1]:
            fit = (normalize(away, dim=-1) @ normalize(tokens.text.float(), dim=-1).mT).mean(-1)
            spread = (fit - fit.mean(1, keepdim=True)) / fit.std(1, keepdim=True, correction=0).clamp(min=1e-6)
            need = need * (self.query * spread).exp()
        if self.fine:
            need = need * _about_one(Film(tokens).contrast(unit)).clamp(min=0.05) ** self.fine
        return need

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), grid (B, n, 3), text (B, t, D) -> map to at most m tokens."""
        x, n = tokens.x.float(), tokens.n
        m = budget(self.keep, n)
        if m >= n:
            return Reduction.identity(len(x), n, x.device)
        unit = normalize(x, dim=-1)
        away = unit - unit.mean(1, keepdim=True)
        need, toward = self.needs(tokens, away, unit), fitting(normalize(away, dim=-1))
        return Reduction.stack([self._row(t, w, m) for t, w in zip(toward, need)])

    def _row(self, toward: Tensor, need: Tensor, m: int) -> Reduction:
        """toward (n, d) directions, need (n,) -> map of one row."""
        pool = need.argsort(descending=True, stable=True)[: max(POOL, 4 * m)].sort().values
        like = power((toward[pool] @ toward[pool].T).clamp_(min=0), self.sharp)
        picked, left = stand_for(like, need[pool], m)
        if self.enough < 1:
            m = int((left > 1 - self.enough).sum()) + 1
        keep = pool[picked[:m]].sort().values
        if not self.fold:
            return Reduction.take(keep[None], len(need))
        near, slot = (toward[keep] @ toward.T).max(0)
        slot = slot.masked_fill(near <= 0, -1)
        slot[keep] = torch.arange(len(keep), device=keep.device)
        share = need.clamp(min=torch.finfo(torch.float32).tiny).index_fill(0, keep, 0.0) * (slot >= 0)
        total = share.new_zeros(len(keep)).scatter_add(0, slot.clamp(min=0), share)
        share = self.fold * share / total[slot.clamp(min=0)].clamp(min=torch.finfo(torch.float32).tiny)
        share[keep] = torch.where(total > 0, 1 - self.fold, 1.0)
        return Reduction(keep[None], slot[None], share[None])


def _about_one(value: Tensor) -> Tensor:
    """value (B, n) >= 0 over its mean; ones where all are 0."""
    mean = value.mean(1, keepdim=True)
    return torch.where(mean > 0, value / mean.clamp(min=torch.finfo(torch.float32).tiny), 1.0)
