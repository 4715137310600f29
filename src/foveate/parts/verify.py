"""Which drafted tokens the target keeps, and what it says after them. Rows never see each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Verdict(NamedTuple):
    """What came of ``gamma`` drafted tokens.

    Attributes:
        accepted: (B,) int64, how many leading drafted tokens stay.
        tokens: (B, gamma + 1) int64, those tokens, then the target's own next one, then -1.
        probs: (B, V) the distribution the target's own token was drawn from; None for greedy decoding.
    """

    accepted: Tensor
    tokens: Tensor
    probs: Tensor | None = None


def accept_greedy(best: Tensor, drafted: Tensor, sure: Tensor | None = None) -> Verdict:
    """Keep the longest prefix that the target would have chosen itself.

    Args:
        best: (B, gamma + 1) int64, the target's choice at every drafted position and after the last.
        drafted: (B, gamma) int64; -1 is no guess and never stays.
        sure: (B, gamma) bool, guesses that the target is not asked about, or None: about all.
    """
    if sure is not None:  # at most gamma of these, as tokens may have been cut since
        sure = sure[:, : drafted.shape[1]] & (drafted >= 0)
        best = torch.cat([torch.where(sure, drafted, best[:, :-1]), best[:, -1:]], 1)
    accepted = _leading(best[:, :-1] == drafted)
    at = torch.arange(best.shape[1], device=best.device)
    return Verdict(accepted, torch.where(at <= accepted[:, None], best, -1))


def accept(
    target: Tensor,
    drafted: Tensor,
    uniform: Tensor,
    last: Tensor,
    draft: Tensor | None = None,
    weight: float | None = None,
) -> Verdict:
    """Speculative sampling: what stays is distributed exactly as if the target had drawn every token itself.

    A drafted x stays with probability min(1, p(x) / q(x)); at the first that does not, the target draws from what q
    left out, max(p - q, 0) normalised; if all stay, it draws one more from p. Where nothing is left out (p = q up to
    rounding), it draws from p.

    Args:
        target: (B, gamma + 1, V) probabilities p.
        drafted: (B, gamma) int64 tokens; -1 is no guess and never stays.
        uniform: (B, gamma) in [0, 1), one for each drafted token.
        last: (B,) in [0, 1), for the target's own token.
        draft: (B, gamma, V) probabilities q the drafted tokens were drawn from; None if each was certain.
        weight: accept against the mixture ``weight * p + (1 - weight) * q`` instead of p (more stays, and the
            distribution is no longer the target's); None or 1 is exact.
    """
    gamma, guess = drafted.shape[1], drafted.clamp(min=0)[..., None]
    p = target[:, :gamma].gather(2, guess)[..., 0]
    ratio = p if draft is None else p / draft.gather(2, guess)[..., 0]  # 0 / 0 is nan, which compares as rejected
    if weight is not None:
        ratio = 1 - weight + weight * ratio
    accepted = _leading((uniform <= ratio) & (ratio > 0) & (drafted >= 0))
    here = target.gather(1, _row(accepted, target))[:, 0]
    rest = (here - _left_out(drafted, accepted, here, draft)).clamp(min=0)
    total = rest.sum(-1, keepdim=True)
    own = (accepted == gamma)[:, None] | (total <= torch.finfo(total.dtype).tiny)
    probs = torch.where(own, here, rest / total)
    at = torch.arange(gamma + 1, device=drafted.device)
    tokens = torch.where(at < accepted[:, None], torch.nn.functional.pad(drafted, (0, 1)), -1)
    return Verdict(accepted, torch.where(at == accepted[:, None], draw(probs, last)[:, None], tokens), probs)


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """The first token whose cumulative probability exceeds uniform * total. probs (..., V), uniform (...) -> (...)."""
    wide = torch.float32 if probs.device.type == "mps" else torch.float64
    below = probs.to(wide).cumsum(-1)
    at = torch.searchsorted(below, uniform.to(wide)[..., None] * below[..., -1:], right=True)[..., 0]
    return at.clamp(max=probs.shape[-1] - 1)


def _leading(stays: Tensor) -> Tensor:
    """(B, gamma) bool -> (B,) how many are True before the first False."""
    return stays.long().cumprod(-1).sum(-1)


def _row(at: Tensor, like: Tensor) -> Tensor:
    """Index that picks position at[b] of like (B, n, V) in every row: (B, 1, V)."""
    return at[:, None, None].expand(-1, 1, like.shape[-1])


def _left_out(drafted: Tensor, accepted: Tensor, like: Tensor, draft: Tensor | None) -> Tensor:
    """q at the first drafted token that did not stay, (B, V); zeros where all stayed or there was no guess."""
    if draft is not None:
        past = torch.cat([draft, torch.zeros_like(like)[:, None]], 1)
        return past.gather(1, _row(accepted, past))[:, 0] * _guessed(drafted, accepted)
    token = torch.nn.functional.pad(drafted, (0, 1), value=-1).gather(1, accepted[:, None])
    return torch.zeros_like(like).scatter(1, token.clamp(min=0), (token >= 0).to(like.dtype))


def _guessed(drafted: Tensor, accepted: Tensor) -> Tensor:
    """(B, 1) bool: whether there was a guess at the first token that did not stay."""
    return torch.nn.functional.pad(drafted, (0, 1), value=-1).gather(1, accepted[:, None]) >= 0
