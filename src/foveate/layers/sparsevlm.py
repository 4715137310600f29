"""SparseVLM: the text tokens that concern the image rate its tokens; some of those dropped live on in clusters.

Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", ICML 2025.
https://arxiv.org/abs/2410.04417

Raters are the text tokens whose softmaxed product with the visual tokens is above the mean. After a few layers, visual
tokens are ranked by the raters' attention; the rest is dropped, except that the best of the rest is clustered by
density peaks and averaged. ``variant="plus"`` divides the attention by what rotary positions alone would give, listens
to the heads that look at the image most, and recycles nothing.

The authors' code has a fixed table of counts (``keeps``); ``adaptive`` is the paper's rule, which drops that share of n
minus the rank of the raters' attention. Departures: clusters count within the budget and take the place of their
centre (the code lists them after the others and counts positions anew); ties of density go to the earlier token instead
of to noise; raters compare the visual tokens as they are now, unless their input embeddings are given as image_embeds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Many, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.density_peaks import density_peaks
from ..parts.merge import Match
from ..parts.rotary import rotary_bias
from ..parts.score import text_rows
from ..parts.select import top
from ..parts.stages import due, equally_long, starts
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference",
    url="https://arxiv.org/abs/2410.04417",
    needs=("last_heads", "text"),
    cost="attention rows of the text tokens and a distance table of 0.3 times the dropped tokens, at each stage",
    vectors=("sparsevlm",),
)
class SparseVLM:
    """Staged selection by text raters, with recycling."""

    layers: tuple[int, ...] | None = option(
        None,
        Many(Range(1, kind=int)),
        "drop before these layers (0-based); default: at 3/32, 7/32 and 1/2 of the depth",
    )
    keeps: tuple[float, ...] = option(
        (0.52, 0.35, 0.19), Many(Range(0, 1, open_low=True)), "shares of the original visual tokens left by the stages"
    )
    variant: str = option("v1", OneOf(("v1", "plus")), "with recycling, or corrected for position; see above")
    recycle: float = option(0.3, Range(0, 1), "share of the dropped tokens that is clustered (v1)")
    condense: float = option(0.1, Range(0, 1), "clusters for each token that is clustered (v1)")
    heads: int = option(14, Range(1, kind=int), "heads that rate (plus)")
    base: float = option(10000.0, Range(1), "base of the model's rotary embedding (plus)")
    adaptive: float | None = option(None, Range(0, 1), "instead of keeps: share of n minus the rank that is dropped")

    def __post_init__(self) -> None:
        equally_long(self, "layers", "keeps")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before the layers that follow the sparse ones."""
        return tuple(dict.fromkeys(self._starts(layers)))

    def _starts(self, layers: int) -> tuple[int, ...]:
        depths = (3 / 32, 7 / 32, 1 / 2) if len(self.keeps) == 3 else [(s + 1) / 8 for s in range(len(self.keeps))]
        return starts(self.layers, depths, layers)

    def raters(self, visual: Tensor, text: Tensor) -> Tensor:
        """Which text tokens concern the image. visual (B, n, D), text (B, t, D) -> (B, t) bool, never none."""
        share = (visual.float() @ text.float().mT).softmax(-1).mean(1)
        chosen = share > share.mean(-1, keepdim=True)
        return chosen | ~chosen.any(-1, keepdim=True)

    def score(self, attention: Tensor, raters: Tensor, bias: Tensor | None = None) -> Tensor:
        """attention (B, H, t, n) of the text on the visual tokens, raters (B, t) -> (B, n); bias (B, t, n) divides."""
        rows = attention if bias is None else attention / bias[:, None]
        rows = rows * raters[:, None, :, None]
        if bias is not None and self.heads < rows.shape[1]:
            best = top(rows.sum((2, 3)), self.heads)
            rows = rows.gather(1, best[..., None, None].expand(-1, -1, *rows.shape[2:]))
        return rows.mean(1).sum(1) / raters.sum(-1, keepdim=True)

    def clusters(self, n: int, kept: int) -> tuple[int, int]:
        """How many of the n - kept dropped tokens are recycled, and into how many clusters."""
        if kept >= n:
            return 0, 0
        some = min(n - kept, int(self.recycle * (n - kept)) + 1)
        return some, min(some, int(self.condense * some) + 1)

    def recycled(self, x: Tensor, score: Tensor, kept: int, clusters: int, noise: Tensor | None = None) -> Match:
        """Keep the best, cluster the next best. x (B, n, D), score (B, n) -> map of the tokens, kept ones listed first.

        noise (B, r): see :func:`density_peaks`; one number for each recycled token, best first.
        """
        rank = score.argsort(dim=-1, descending=True, stable=True)
        stay = rank[:, :kept].sort(-1).values
        into = torch.full_like(rank, -1).scatter(1, stay, stay)
        some = max(self.clusters(x.shape[1], kept)[0], clusters)
        if not some:
            return Match(into, stay)
        rest = rank[:, kept : kept + some]
        found = density_peaks(x.gather(1, rest[..., None].expand(-1, -1, x.shape[2])), clusters, clusters, noise)
        centres = rest.gather(1, found.centres)
        return Match(into.scatter(1, rest, centres.gather(1, found.label)), torch.cat([stay, centres], 1))

    def reduce(self, tokens: Tokens) -> Reduction:
        """Heads of the layer that ran last, tokens.text (B, t, D) -> selection, with clusters in v1."""
        q, k, where, asks = (tokens.need(name) for name in ("q", "k", "where", "asks"))
        raters = self.raters(tokens.need("image_embeds", "x"), tokens.need("text"))
        attention = text_rows(q, k, asks, where)
        bias = rotary_bias(asks, where, q.shape[-1], self.base) if self.variant == "plus" else None
        score = self.score(attention, raters, bias)
        counts = self._counts(tokens, attention, raters)
        if len(set(counts)) == 1:
            return self._map(tokens.x, score, counts[0])
        return Reduction.stack([self._map(tokens.x[b : b + 1], score[b : b + 1], m) for b, m in enumerate(counts)])

    def _counts(self, tokens: Tokens, attention: Tensor, raters: Tensor) -> list[int]:
        """Tokens to leave in each row."""
        n, b = tokens.n, tokens.x.shape[0]
        if self.adaptive is None:
            keep = due(self._starts(tokens.layers), self.keeps, tokens.layer)
            return [budget(keep, n, tokens.full)] * b
        ranks = torch.linalg.matrix_rank(attention.mean(1) * raters[..., None])
        return [max(1, n - int(self.adaptive * (n - rank))) for rank in ranks.tolist()]

    def _map(self, x: Tensor, score: Tensor, m: int) -> Reduction:
        n = x.shape[1]
        if self.variant == "plus" or m >= n:
            return Reduction.take(top(score, m), n)
        kept = max((k for k in range(m) if k + self.clusters(n, k)[1] <= m), default=0)
        return Reduction.merge(self.recycled(x, score, kept, m - kept).into)
