"""Relevance from gradients: of the input, and of the attention maps."""

from __future__ import annotations

import torch
from torch import Tensor

from .case import Case


def grad_input(case: Case, features: Tensor | None = None, at: int | None = None, target: int | None = None) -> Tensor:
    """Gradient times input: how far the target's logit would move if a token's features shrank to nothing.

    Signed: tokens that speak for the target score above 0, those against it below. For a model that is linear in its
    visual features the scores sum to the logit's difference to that without them. at: the position whose prediction is
    explained, default the last. -> (n,) float32.

    Shrikumar et al., "Not Just a Black Box: Learning Important Features Through Propagating Activation Differences",
    2016. https://arxiv.org/abs/1605.01713
    """
    leaf = (case.features if features is None else features).detach().requires_grad_()
    with torch.enable_grad():
        rows = None if at is None else torch.tensor([at], device=leaf.device)
        logit = case.logits(leaf, rows).flatten()[case.target if target is None else target]
        (slope,) = torch.autograd.grad(logit, leaf)
    return (slope.float() * leaf.detach().float()).sum((0, 2))


def explain(case: Case) -> Tensor:
    """Attention maps weighted by their gradients, carried from the last token back to the visual ones.

    Every layer's map counts where more attention would raise the target's logit: r <- r + r mean_h max(0, grad A * A),
    from the last layer to the first, r starting at the last token. -> (n,) float32, at least 0. Needs an eager case;
    all maps are held at once.

    Chefer et al., "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers",
    ICCV 2021. https://arxiv.org/abs/2103.15679
    """
    maps: list[Tensor] = []
    leaf = case.features.detach().requires_grad_()
    with torch.enable_grad():
        logit = case.attend(lambda _, a: maps.append(a), leaf)[case.target]
        slopes = torch.autograd.grad(logit, maps)
    r = maps[0].new_zeros(1, maps[0].shape[-1], dtype=torch.float32)
    r[:, -1] = 1
    for a, slope in zip(reversed(maps), reversed(slopes)):
        r = r + r @ (a.detach().float() * slope.float()).clamp(min=0).mean((0, 1))
    return r[0, case.where]
