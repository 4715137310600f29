"""Drawing several different tokens at once, and several different sequences (Gumbel top-k)."""

from __future__ import annotations

import torch
from torch import Tensor


def gumbel(like: Tensor) -> Tensor:
    """Standard Gumbel noise of that shape, float32; from the global random state."""
    uniform = torch.rand(like.shape, device=like.device).clamp(min=torch.finfo(torch.float32).tiny)
    return -(-uniform.log()).clamp(min=torch.finfo(torch.float32).tiny).log()


def draw_several(logits: Tensor, k: int) -> Tensor:
    """k different tokens, each drawn from what those before it left: logits (..., V) -> (..., k) int64, in that order.

    Tokens without a chance are -1.
    """
    noisy = logits.float().log_softmax(-1) + gumbel(logits)
    best = noisy.topk(min(k, logits.shape[-1]), -1)
    return torch.where(best.values > -torch.inf, best.indices, -1)


def beam_step(noisy: Tensor, logp: Tensor, logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One level of stochastic beam search: k different sequences, drawn without replacement.

    Kool et al., "Stochastic Beams and Where to Find Them", ICML 2019, arXiv 1903.06059: a child's perturbed log
    probability is drawn under the condition that the greatest among its siblings is that of their parent.

    Args:
        noisy: (w,) perturbed log probabilities of the beam, and ``logp`` (w,) the true ones.
        logits: (w, V) of what follows each.
        k: the width of the next beam.

    Returns:
        Of the next beam, greatest first: parent (k,), token (k,), perturbed (k,) and true (k,) log probabilities.
    """
    phi = logp[:, None] + logits.float().log_softmax(-1)
    raw = phi + gumbel(phi)
    top = raw.amax(1, keepdim=True)
    # log(exp(-parent) - exp(-top) + exp(-raw)), negated, in a form that does not overflow
    v = noisy[:, None] - raw + torch.log1p(-(raw - top).exp().clamp(max=1.0))
    v = torch.where(raw >= top, torch.full_like(v, -torch.inf), v)
    conditioned = noisy[:, None] - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
    conditioned = torch.where(raw > -torch.inf, conditioned, -torch.inf)
    best = conditioned.flatten().topk(min(k, conditioned.numel()))
    parent, token = best.indices // logits.shape[1], best.indices % logits.shape[1]
    return parent, token, best.values, phi[parent, token]
