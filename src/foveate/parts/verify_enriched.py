"""Accepting drafts against a target that was moved towards what the drafter knows better."""

from __future__ import annotations

import torch
from torch import Tensor

from .verify import Verdict, draw


def enrich(target: Tensor, draft: Tensor, margin: float, alpha: float) -> Tensor:
    """The target's logits (..., V) moved by -margin * (p - q) where q >= alpha * max q. draft (..., V): logits of q."""
    p, q = target.softmax(-1), draft.softmax(-1)
    gap = (p - q).masked_fill(q < alpha * q.amax(-1, keepdim=True), 0)
    return target - margin * gap


def accept_enriched(
    target: Tensor, draft: Tensor, drafted: Tensor, uniform: Tensor, last: Tensor, margin: float, alpha: float
) -> Verdict:
    """As :func:`foveate.parts.verify.accept`, drafted tokens being checked against the enriched target.

    At the first that does not stay the token is drawn from max(p - q, p - r, 0), p the target, r the enriched one and q
    the draft (the published rule; the target's distribution is not kept unless margin is 0, which leaves p - q).

    Args:
        target: (B, gamma + 1, V) logits; draft: (B, gamma, V) logits; drafted (B, gamma) tokens, -1 for none.
        uniform: (B, gamma) and last (B,) in [0, 1).
    """
    gamma, guess = drafted.shape[1], drafted.clamp(min=0)[..., None]
    p, q = target.softmax(-1), draft.softmax(-1)
    rich = enrich(target[:, :gamma], draft, margin, alpha).softmax(-1)
    ratio = (rich.gather(2, guess) / q.gather(2, guess))[..., 0]
    stays = (uniform <= ratio) & (ratio > 0) & (drafted >= 0)
    accepted = stays.long().cumprod(-1).sum(-1)
    at = accepted.clamp(max=max(0, gamma - 1))[:, None, None].expand(-1, 1, p.shape[-1])
    here = p.gather(1, accepted[:, None, None].expand(-1, 1, p.shape[-1]))[:, 0]
    rest = here
    if gamma:
        guessed = (drafted.gather(1, at[:, :, 0]) >= 0).to(q.dtype)
        r, s = rich.gather(1, at)[:, 0], q.gather(1, at)[:, 0] * guessed
        rest = torch.maximum(here - s, here - r if margin else here - s).clamp(min=0)
    total = rest.sum(-1, keepdim=True)
    own = (accepted == gamma)[:, None] | (total <= torch.finfo(total.dtype).tiny)
    probs = torch.where(own, here, rest / total.clamp(min=torch.finfo(total.dtype).tiny))
    column = torch.arange(gamma + 1, device=drafted.device)
    tokens = torch.where(column < accepted[:, None], torch.nn.functional.pad(drafted, (0, 1)), -1)
    return Verdict(accepted, torch.where(column == accepted[:, None], draw(probs, last)[:, None], tokens), probs)
