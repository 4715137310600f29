"""Signals in one shape, whichever of the alternatives a model gives."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from ..tokens import Tokens


def attention(tokens: Tokens, *names: str) -> Tensor:
    """How much each token is looked at, (B, n) float32: the first signal given, averaged over heads.

    By default the class token's attention, or else what a token receives. Infinity marks a token that always stays.
    """
    score = tokens.need(*(names or ("cls_attention", "received_attention"))).float()
    return score.mean(1) if score.ndim == 3 else score


def wide_attention(tokens: Tokens) -> Tensor:
    """As :func:`attention`, where a class token's attention as one wide head comes first."""
    return attention(tokens, "wide_attention", "cls_attention", "received_attention")


def layer_attention(tokens: Tokens) -> Tensor:
    """How much each token is looked at in every encoder block, (B, L, n) float32."""
    return tokens.need("cls_layers", "received_layers").float()


def finite(score: Tensor) -> Tensor:
    """The same with 0 at tokens that always stay, where a score serves as a weight."""
    return score.masked_fill(~score.isfinite(), 0)


def shared_space(tokens: Tokens) -> tuple[Tensor, Tensor, bool]:
    """Tokens (B, n, C) and text (B, M, C) in one space, and whether it is a dual encoder's (else the LLM's own)."""
    if tokens.image_embeds is not None and tokens.text_embeds is not None:
        return tokens.image_embeds.float(), tokens.text_embeds.float(), True
    return tokens.x.float(), tokens.need("text", "text_embeds").float(), False


def likeness(tokens: Tokens) -> Tensor:
    """Mean cosine of each token with the pieces of text, (B, n).

    A text in a space of its own says nothing: all tokens are equally (un)like it.
    """
    x, text, _ = shared_space(tokens)
    if x.shape[-1] != text.shape[-1]:
        return x.new_zeros(x.shape[:2])
    return (normalize(x, dim=-1) @ normalize(text, dim=-1).mT).mean(-1)


def relevance(tokens: Tokens) -> Tensor:
    """How much each token has to do with the text, (B, n): :func:`likeness`, turned around in a dual encoder's space.

    Dual encoders align the whole image with the text; their patches then are least like it where its object is, and
    published methods negate the cosine.
    """
    dual = tokens.image_embeds is not None and tokens.text_embeds is not None
    return -likeness(tokens) if dual else likeness(tokens)


def keys(tokens: Tokens) -> Tensor:
    """Unit keys of the encoder, all heads side by side or else averaged, (B, n, d) float32."""
    return normalize(tokens.need("keys", "metric").float(), dim=-1)
