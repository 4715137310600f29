"""MustDrop, inside the LLM: drop a visual token only if the text as a whole and every word of it can do without.

Liu et al., "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model", 2024.
https://arxiv.org/abs/2411.10803

After a few layers, the visual tokens go whose attention from the text is small both in sum (a share of what all visual
tokens get) and from each single text token. Key tokens, the best by the vision encoder's class attention, never go. The
merging in the vision tower is the method ``mustdrop_merge``; "mustdrop_merge + mustdrop" is the whole.

Thresholds decide how many tokens stay, so rows of a batch may differ; the defaults are the authors' for 576 tokens, of
which about 192 stay, and want to be smaller for longer inputs. Departures from the authors' code: kept tokens
stay at their original positions (the code counts positions anew); caches of the layers between two stages keep what
those layers saw (the code cuts them to the last set after prefill).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..method import Keep, Many, OneOf, Range, method, option
from ..parts.score import text_rows
from ..parts.select import top
from ..parts.stages import due, equally_long, starts
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model",
    url="https://arxiv.org/abs/2411.10803",
    systems=("S009",),
    needs=("last_heads", "cls_attention|received_attention"),
    cost="attention rows of the text tokens at each stage",
    vectors=("mustdrop",),
)
class MustDrop:
    """Staged dual-attention filter with protected key tokens."""

    layers: tuple[int, ...] | None = option(
        None, Many(Range(1, kind=int)), "filter before these layers (0-based); default: at 3, 7, 11 and 15 of 32"
    )
    total: tuple[float, ...] = option(
        (0.001,) * 4,
        Many(Range(0, 1)),
        "share of the text's attention to the image below which a token may go, by stage",
    )
    single: tuple[float, ...] = option(
        (0.001,) * 4, Many(Range(0, 1)), "attention from each text token below which a token may go, by stage"
    )
    trims: bool = option(True, OneOf((True, False)), "cut the caches to the last stage's tokens after the prefill")
    key: float | int = option(0.08, Keep(), "share (float) or number (int) of the original tokens that never go")

    def __post_init__(self) -> None:
        equally_long(self, "layers", "total", "single")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before the layers after those whose attention decides."""
        return tuple(dict.fromkeys(self._starts(layers)))

    def _starts(self, layers: int) -> tuple[int, ...]:
        return starts(self.layers, [(3 + 4 * s) / 32 for s in range(len(self.total))], layers)

    def important(self, attention: Tensor, total: float, single: float) -> Tensor:
        """attention (B, H, t, n) of the text on the visual tokens -> (B, n) bool, True where it matters."""
        rows = attention.mean(1)  # (B, t, n)
        sums = rows.sum(1)
        return (sums >= total * sums.sum(-1, keepdim=True)) | (rows.amax(1) >= single)

    def keys(self, attention: Tensor, full: int) -> Tensor:
        """attention (B, H, n) or (B, n) in the vision encoder -> (B, n) bool, the key tokens."""
        score = attention.float().mean(1) if attention.ndim == 3 else attention
        count = self.key if isinstance(self.key, int) else math.ceil(self.key * full)
        best = top(score, min(count, score.shape[1]))
        return torch.zeros_like(score, dtype=torch.bool).scatter(1, best, True)

    def reduce(self, tokens: Tokens) -> Reduction:
        """Heads of the layer that ran last, attention in the vision encoder -> selection."""
        q, k, where, asks = (tokens.need(name) for name in ("q", "k", "where", "asks"))
        total, single = (due(self._starts(tokens.layers), values, tokens.layer) for values in (self.total, self.single))
        needed = self.important(text_rows(q, k, asks, where), total, single)
        vision = tokens.need("cls_attention", "received_attention")
        return Reduction.from_mask(needed | self.keys(vision, tokens.full or tokens.n))
