"""What a method may look at. A site fills the fields that the method's ``needs`` name and computes no others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .errors import SignalError
from .reduction import Reduction

#: Signals a method may declare in ``needs``, and what each one is. "features" is always there.
SIGNALS = {
    "features": "the tokens themselves, x (B, n, D)",
    "grid": "cell of each token, (B, n, 3) int64: view, row, column. Views are frames, or 0 for a thumbnail and 1 for "
    "the stitched crops of an image; a token that ends a line has column -1",
    "crop": "of an image cut into crops: 0 for the thumbnail, 1, 2, ... for the crops, -1 for line ends, (B, n) int64",
    "times": "time of each token's frame in seconds from the first, (B, n) float; the frame's number "
    "where the call does not tell its time",
    "pixels": "RGB values from 0 to 255 that each token covers, (B, n, 3, h, w) float",
    "size": "how many patches each token already stands for, (B, n) float",
    "metric": "attention keys of the encoder block, averaged over heads, (B, n, d)",
    "keys": "attention keys of the encoder block, all heads side by side, (B, n, H d)",
    "cls_attention": "attention of the class token on each token, (B, H, n), rows not renormalised",
    "cls_logits": "the same before the softmax, averaged over heads, (B, n)",
    "wide_attention": "attention of the class token as if all heads were one of full width, (B, n)",
    "received_attention": "mean attention each token receives in the encoder, (B, n)",
    "cls_layers": "attention of the class token in every encoder block up to the one read, head mean, (B, L, n)",
    "received_layers": "mean attention received in every encoder block up to the one read, (B, L, n)",
    "image_embeds": "tokens in the space that a dual encoder shares with text, (B, n, C)",
    "text_embeds": "the prompt in that space, one vector for each piece of text, (B, M, C)",
    "text": "embeddings of the prompt's text tokens, (B, t, D); in the LLM only those after the first visual token",
    "last_attention": "attention of the prompt's last token on each token in the layer before, (B, H, n)",
    "next_attention": "attention of the prompt's last token on each token in the layer about to run, (B, H, n)",
    "last_heads": "queries and keys of the attention that ran last: fields q, k, where, asks",
    "next_heads": "queries and keys of the attention about to run: fields q, k, where, asks",
    "transitions": "for each attention and MLP that ran in the LLM, (B, S, n): |out| / |in| times the softmax over the "
    "sequence of 1 - cos(in, out)",
    "queries": "queries of the last few prompt tokens after RoPE, (B, H, w, d)",
    "raw_queries": "queries of all prompt tokens before RoPE, (B, H, n, d)",
    "rotary": "angle by which RoPE turns channels i and i + d/2 of a key for each position, (B, d/2) float",
    "output": "the attention's output projection, one block for each query head, (B, H, d, D)",
    "recalled": "the strongest attention each cache entry gets while the model repeats the prompt, (B, g, n)",
    "received": "attention each cache entry received from all queries of the prompt, summed, (B, H, n)",
}


@dataclass(frozen=True)
class Tokens:
    """One batch of token rows. Rows never see each other.

    Attributes:
        x: (B, n, D) features, any float dtype.
        prefix: how many leading tokens must survive (class, register or distillation tokens).
        full: how many tokens these rows held before any reduction of the same stage (later budgets refer to it).
        layer: 0-based index of the layer or block about to be shortened, and ``layers`` how many there are.
        q, k: of one attention over a whole sequence of L tokens, (B, H, L, d) already scaled and (B, g, L, d), so that
            q k^T are its logits; causal in the LLM. where: (B, n) positions of the tokens among those L, and asks:
            (B, t) positions of the text tokens after the first visual one.
        The rest: see :data:`SIGNALS`; None unless the method asked for it.
    """

    x: Tensor
    prefix: int = 0
    full: int | None = None
    layer: int = 0
    layers: int = 1
    grid: Tensor | None = None
    crop: Tensor | None = None
    times: Tensor | None = None
    pixels: Tensor | None = None
    size: Tensor | None = None
    metric: Tensor | None = None
    keys: Tensor | None = None
    cls_attention: Tensor | None = None
    cls_logits: Tensor | None = None
    wide_attention: Tensor | None = None
    received_attention: Tensor | None = None
    cls_layers: Tensor | None = None
    received_layers: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    text: Tensor | None = None
    last_attention: Tensor | None = None
    next_attention: Tensor | None = None
    transitions: Tensor | None = None
    q: Tensor | None = None
    k: Tensor | None = None
    where: Tensor | None = None
    asks: Tensor | None = None

    @property
    def n(self) -> int:
        """Tokens in a row."""
        return self.x.shape[1]

    def with_(self, **fields: Any) -> Tokens:
        """A copy with some fields replaced."""
        return replace(self, **fields)

    def need(self, *names: str) -> Tensor:
        """The first of these fields that is given.

        Raises:
            SignalError: none of them is.
        """
        for name in names:
            value: Tensor | None = getattr(self, name)
            if value is not None:
                return value
        raise SignalError(f"this method needs {' or '.join(names)}, and the site gave none of them")

    def gathered(self, r: Reduction) -> Tokens:
        """The tokens after a map, for the next method of the same stage: signals follow the positions kept."""
        fields: dict[str, Any] = {"x": r(self.x), "full": self.full or self.n, "size": r.size(self.size)}
        for name, dim in ALONG.items():
            if (value := getattr(self, name)) is not None:
                fields[name] = r.gather(value, dim)
        return self.with_(**fields)


#: The dimension along which a signal lists the tokens; the others do not list them.
ALONG = {
    **dict.fromkeys(("grid", "crop", "times", "pixels", "metric", "keys", "cls_logits", "wide_attention"), 1),
    **dict.fromkeys(("received_attention", "image_embeds", "where"), 1),
    **dict.fromkeys(("cls_attention", "cls_layers", "received_layers"), 2),
    **dict.fromkeys(("last_attention", "next_attention", "transitions"), 2),
}


@dataclass(frozen=True)
class Entries:
    """One layer's key-value cache right after prefill; what a cache method may look at.

    Attributes:
        keys, values: (B, g, n, d) after RoPE.
        queries: (B, H, w, d) after RoPE of the last ``w`` prompt tokens, H = g x group, or None when not asked for.
        received: (B, H, n) float, attention each entry received from all queries of the prompt, summed; None when not
            asked for.
        raw_queries, rotary, output, recalled: see :data:`SIGNALS`; None when not asked for.
        following: (B,) position that the next token will get, or None: the number of entries that are no padding.
        scaling: what the layer multiplies query-key products by.
        valid: (B, n) bool, False at padding, or None when there is none.
        visual: (B, n) bool, True at visual tokens, or None when unknown.
        held: (B, g, n) bool, False where a head no longer holds an entry that others hold, or None: all hold all.
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
    received: Tensor | None = None
    raw_queries: Tensor | None = None
    rotary: Tensor | None = None
    output: Tensor | None = None
    recalled: Tensor | None = None
    following: Tensor | None = None
    held: Tensor | None = None

    @property
    def n(self) -> int:
        """Entries held by each head."""
        return self.keys.shape[2]
