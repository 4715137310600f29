"""What a method may look at. A site fills the fields that the method's ``needs`` name and computes no others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

#: Signals a method may declare in ``needs``, and what each one is. "features" is always there.
SIGNALS = {
    "features": "the tokens themselves, x (B, n, D)",
    "grid": "cell of each token, (B, n, 3) int64: frame, row, column",
    "size": "how many patches each token already stands for, (B, n) float",
    "metric": "attention keys of the block, averaged over heads, (B, n, d)",
    "cls_attention": "attention of the class token on each token, (B, H, n), rows not renormalised",
    "received_attention": "mean attention each token receives in the encoder, (B, n)",
    "last_attention": "attention of the prompt's last token on each token in the layer before, (B, H, n)",
    "next_attention": "attention of the prompt's last token on each token in the layer about to run, (B, H, n)",
    "text": "embeddings of the prompt's text tokens, (B, t, D)",
    "times": "time of each token's frame in seconds, (B, n) float",
    "queries": "queries of the last few prompt tokens after RoPE, (B, H, w, d)",
}


@dataclass(frozen=True)
class Tokens:
    """One batch of token rows. Rows never see each other.

    Attributes:
        x: (B, n, D) features, any float dtype.
        prefix: how many leading tokens must survive (class, register or distillation tokens).
        full: how many tokens these rows held before any reduction of the same stage (later budgets refer to it).
        layer: 0-based index of the layer or block about to be shortened, and ``layers`` how many there are.
        The rest: see :data:`SIGNALS`; None unless the method asked for it.
    """

    x: Tensor
    prefix: int = 0
    full: int | None = None
    layer: int = 0
    layers: int = 1
    grid: Tensor | None = None
    size: Tensor | None = None
    metric: Tensor | None = None
    cls_attention: Tensor | None = None
    received_attention: Tensor | None = None
    last_attention: Tensor | None = None
    next_attention: Tensor | None = None
    text: Tensor | None = None
    times: Tensor | None = None

    @property
    def n(self) -> int:
        """Tokens in a row."""
        return self.x.shape[1]

    def with_(self, **fields: Any) -> Tokens:
        """A copy with some fields replaced."""
        return replace(self, **fields)


@dataclass(frozen=True)
class Entries:
    """One layer's key-value cache right after prefill; what a cache method may look at.

    Attributes:
        keys, values: (B, g, n, d) after RoPE.
        queries: (B, H, w, d) after RoPE of the last ``w`` prompt tokens, H = g x group, or None when not asked for.
        scaling: what the layer multiplies query-key products by.
        valid: (B, n) bool, False at padding, or None when there is none.
        visual: (B, n) bool, True at visual tokens, or None when unknown.
        layer: 0-based index of the layer, and ``layers`` how many there are.
    """

    keys: Tensor
    values: Tensor
    queries: Tensor | None = None
    scaling: float = 1.0
    valid: Tensor | None = None
    visual: Tensor | None = None
    layer: int = 0
    layers: int = 1

    @property
    def n(self) -> int:
        """Entries held by each head."""
        return self.keys.shape[2]
