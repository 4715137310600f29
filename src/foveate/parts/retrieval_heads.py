"""Heads that look far back and heads that only see both ends of what came before: telling them apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import InputError, SignalError
from ..tokens import Entries
from .evict_heads import place
from .score import attention_rows, causal_tail


def full_count(heads: int, share: float, rule: str = "round") -> int:
    """How many of ``heads`` are full. "round": all but the rounded share of streaming ones; "quantile": those at or
    above the linear quantile of their gates at that share."""
    streaming = 1 - share
    if rule == "round":
        return heads - round(round(heads * streaming, 9))  # the share may come from a subtraction
    if streaming >= 1 or streaming <= 0:
        return 0 if streaming >= 1 else heads
    return heads - math.ceil(streaming * (heads - 1) - 1e-9)


def highest(score: Tensor, count: int) -> Tensor:
    """The ``count`` highest of score (..., N), True there; equal ones from the left."""
    order = score.float().argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(score, dtype=torch.bool).scatter(-1, order[..., :count], True)


def at_least(score: Tensor, count: int) -> Tensor:
    """As :func:`highest`, but all that equal the last one taken are taken too."""
    if count < 1:
        return torch.zeros_like(score, dtype=torch.bool)
    bar = score.flatten().sort(descending=True).values[min(count, score.numel()) - 1]
    return score >= bar


def repeated(attention: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """Echo and induction score of heads on a random sequence said several times over.

    attention (..., n, n) causal, period: length of the sequence -> two of (...): the mean over the whole map of what
    goes from a token to its earlier copies, and to what followed those copies.
    """
    n = attention.shape[-1]
    at = torch.arange(n, device=attention.device)
    back = at[:, None] - at
    echo = (back > 0) & (back % period == 0)
    after = (back >= 0) & ((back + 1) % period == 0) & (at >= 1)
    x = attention.float()
    return (x * echo).mean((-2, -1)), (x * after).mean((-2, -1))


def far(entries: Entries, sinks: int, recent: int) -> Tensor:
    """Share of the last queries' attention that leaves both ends: (B, g), max over the query heads of a KV head."""
    if entries.queries is None:
        raise SignalError("without the gates of its heads this method needs the queries of the last prompt tokens")
    b, g, n = entries.keys.shape[:3]
    w = min(entries.queries.shape[2], n)
    mask = causal_tail(w, n, entries.keys.device)
    if entries.valid is not None:
        mask = mask & entries.valid[:, None, None]
    rows = attention_rows(entries.queries[:, :, entries.queries.shape[2] - w :], entries.keys, entries.scaling, mask)
    at = place(entries)
    lag = torch.arange(n - w, n, device=at.device)[:, None] - torch.arange(n, device=at.device)
    outside = (at >= sinks)[:, None, None] & (lag >= recent)
    return (rows.nan_to_num(0.0) * outside).sum(-1).mean(-1).view(b, g, -1).amax(-1)


def layer_of(gates: tuple[float, ...], entries: Entries, count: int, clip: bool = True) -> Tensor:
    """Which heads of this layer are among the ``count`` highest of a model. gates: layer after layer -> (g,) bool."""
    g = entries.keys.shape[1]
    if len(gates) != g * entries.layers:
        raise InputError(f"this model has {entries.layers} x {g} KV heads; {len(gates)} gates were given")
    score = torch.tensor(gates, device=entries.keys.device)
    return highest(score.clamp(0, 1) if clip else score, count).view(-1, g)[entries.layer]


def streaming_mask(n: int, sinks: int, recent: int) -> Tensor:
    """What a head that sees only both ends may read: (n, n) bool, causal."""
    at = torch.arange(n)
    back = at[:, None] - at
    return (back >= 0) & ((at < sinks) | (back < recent))
