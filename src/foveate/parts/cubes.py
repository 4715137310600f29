"""Cutting a video into cubes by a learnt network: Quicksviewer's, where its weights are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from .frame_change import momentum_change
from .select import top

POOLED = 9  # neighbouring tokens that become one of the thumbnail


class Cubes(NamedTuple):
    """What the network says.

    Attributes:
        logits: (T - 1, 2): no cut and cut, for all frames but the first.
        bounds: (cubes, 2) int64: first frame of each cube, and the frame after its last.
    """

    logits: Tensor
    bounds: Tensor


def cut(
    x: Tensor, weights: Mapping[str, Tensor], frames: int, temperature: float = 1.0, momentum: float = 0.8
) -> Cubes:
    """Cut tokens of frames into cubes of about ``frames`` frames: x (T, P, D) float.

    weights: the network's, ``agg_frame_fn.0.*`` (linear), ``proj_fn.0.*`` (norm), ``proj_fn.1.*`` and ``proj_fn.3.*``
    (linear). The frames with the best chance of a cut open a cube, as many as there are cubes but one; the first does.
    """
    step = momentum_change(x[None], momentum)[0]
    w = {k: v.float() for k, v in weights.items()}
    mean = linear(step, w["agg_frame_fn.0.weight"], w["agg_frame_fn.0.bias"]).mean(1)
    inner = layer_norm(mean, mean.shape[-1:], w["proj_fn.0.weight"], w["proj_fn.0.bias"])
    inner = gelu(linear(inner, w["proj_fn.1.weight"], w["proj_fn.1.bias"]))
    logits = linear(inner, w["proj_fn.3.weight"], w["proj_fn.3.bias"])
    chance = (logits / temperature).softmax(-1)[:, 1]
    opens = 1 + top(chance[None], min(max(round(len(x) / frames) - 1, 1), len(chance)))[0]
    first = torch.cat([opens.new_zeros(1), opens])
    last = torch.cat([opens, opens.new_tensor([len(x)])])
    return Cubes(logits, torch.stack([first, last], 1))


def thumbnail(x: Tensor, cubes: Cubes, weights: Mapping[str, Tensor]) -> Tensor:
    """Mean of the frames that open a cube, nine tokens pooled to one and projected: x (T, P, D) -> (P // 9, C).

    weights: ``thumbnail_fn.1.*`` (linear).
    """
    mean = x[cubes.bounds[:, 0]].float().mean(0)
    pooled = mean[: len(mean) // POOLED * POOLED].unflatten(0, (-1, POOLED)).mean(1)
    return linear(pooled, weights["thumbnail_fn.1.weight"].float(), weights["thumbnail_fn.1.bias"].float())
