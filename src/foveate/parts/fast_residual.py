"""A residual stream that moves faster than a model's own: the same steps, and trained ones added at each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from ..errors import PlanError


def accelerate(states: Sequence[Tensor], pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """What the fast stream holds behind the last of the layers.

    states: len(pairs) + 1 hidden states (B, k, D), before the first layer and after each; pairs: of each layer, down
    (r, D) and up (D, r) -> (B, k, D) in the dtype of the states. All up zero: the slow stream.
    """
    fast = states[0].float()
    for before, after, (down, up) in zip(states[:-1], states[1:], pairs, strict=True):
        normed = fast * (fast.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
        step = linear(silu(linear(normed, down.to(fast))), up.to(fast))
        fast = fast + (after.float() - before.float()) + step
    return fast.to(states[0].dtype)


def pairs_of(weights: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weights ``layers_i_down`` (r, D) and ``layers_i_up`` (D, r), i from 0 without a gap -> pairs, layer by layer.

    Raises:
        PlanError: one of a pair is missing, or they do not fit each other.
    """
    found: list[tuple[Tensor, Tensor]] = []
    while f"layers_{len(found)}_down" in weights or f"layers_{len(found)}_up" in weights:
        i = len(found)
        down, up = (weights.get(f"layers_{i}_{name}", torch.zeros(0)) for name in ("down", "up"))
        if down.ndim != 2 or up.shape != down.shape[::-1]:
            raise PlanError(
                f"'layers.{i}' needs down (r, D) and up (D, r). Got {tuple(down.shape)}, {tuple(up.shape)}."
            )
        found.append((down, up))
    return found
