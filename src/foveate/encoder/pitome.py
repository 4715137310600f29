"""PiToMe: merge only tokens that have many near-duplicates, protect the isolated ones.

Tran et al., "Accelerating Transformers with Spectrum-Preserving Token Merging", NeurIPS 2024.
https://arxiv.org/abs/2405.16148

A token's energy is its mean similarity to all others above a margin; high energy means a large redundant cluster. The
2 r tokens of highest energy are paired off and merged, the rest is protected, which preserves the graph's spectrum.

Later attention adds the logarithm of each token's size to its logits, as ToMe does.

The code's energy is ELU(cosine - margin), the paper's keeps the cosine itself above the margin; this follows the code.
Its form for text encoders (``variant="text"``) has a Gaussian kernel and lets the upper half of the 2 r tokens join the
lower half; its ``use_bsm_pitome`` (``variant="bsm"``) pairs all tokens and merges the r most similar pairs.
"""

from __future__ import annotations

import math

from torch import Tensor

from ..errors import SignalError
from ..method import OneOf, Range, method, option
from ..parts.merge import Match, Pair, elu_energy, energy_match, gaussian_energy, shift, untouched
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Accelerating Transformers with Spectrum-Preserving Token Merging",
    url="https://arxiv.org/abs/2405.16148",
    systems=("S019",),
    needs=("metric", "size"),
    cost="one n x n similarity a block",
    vectors=("pitome",),
)
class PiToMe:
    """Energy-ranked merging."""

    ratio: float = option(0.9, Range(0, 1, open_low=True), "share of tokens that each block lets through")
    margin: float = option(0.9, Range(-1, 1), "cosine below which tokens do not count as similar (first block)")
    slope: float = option(0.0, Range(-1, 1), "how much the margin falls from the first block to the last")
    alpha: float = option(1.0, Range(0), "scale of the negative part of the energy")
    proportional: bool = option(True, OneOf((True, False)), "add log(size) to later attention logits")
    variant: str = option("vision", OneOf(("vision", "text", "bsm")), "which form of the published code; see above")

    def at(self, layers: int) -> tuple[int, ...]:
        """Every block."""
        return tuple(range(layers))

    def drops(self, n: int, prefix: int, layer: int, layers: int) -> int:
        """How many of n tokens, ``prefix`` ones included, this block merges away."""
        rest = n - prefix
        return min(math.floor(rest - rest * self.ratio), rest // 2)

    def energy(self, tokens: Tokens) -> Tensor:
        """tokens.metric (B, n, d) -> (B, n - prefix), higher is more redundant."""
        if tokens.metric is None:
            raise SignalError("pitome needs metric, the block's keys averaged over heads (B, n, d); it is None")
        margin = self.margin - self.slope * tokens.layer / max(1, tokens.layers - 1)
        metric = tokens.metric[:, tokens.prefix :]
        return gaussian_energy(metric, margin) if self.variant == "text" else elu_energy(metric, margin, self.alpha)

    def match(self, tokens: Tokens) -> Match:
        """Who merges into whom: tokens.metric (B, n, d)."""
        if tokens.metric is None:
            raise SignalError("pitome needs metric, the block's keys averaged over heads (B, n, d); it is None")
        metric = tokens.metric[:, tokens.prefix :]
        r = self.drops(tokens.n, tokens.prefix, tokens.layer, tokens.layers)
        if self.ratio == 1:
            return untouched(tokens.metric)
        pair: Pair = "halves" if self.variant == "text" else "all" if self.variant == "bsm" else "alternate"
        return shift(energy_match(metric, r, self.energy(tokens), pair), tokens.prefix)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.metric (B, n, d), tokens.size (B, n) -> merge to n - r."""
        return Reduction.merge(self.match(tokens).into, tokens.size)
