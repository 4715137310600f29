"""Relevance from attention alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..parts.sinks import calibrate, sink_columns
from .case import Case


def attention_rollout(maps: Sequence[Tensor]) -> Tensor:
    """How much of each input the last token holds after all layers. maps: (L, L) of each layer, rows summing to 1.

    Each layer passes half of a token on as it is (the residual) and half as its attention mixes it. -> (L,), sums to 1.
    """
    r = maps[0].new_zeros(1, maps[0].shape[-1], dtype=torch.float32)
    r[:, -1] = 1
    for a in reversed(maps):
        r = (r + r @ a.float()) / 2
    return r[0]


def rollout(case: Case, sinks: float | None = None) -> Tensor:
    """Attention rollout from the last token to the visual ones, head mean. -> (n,) float32. Needs an eager case.

    sinks: what attention sinks keep of their attention before it is rolled out (None: all of it).

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020. https://arxiv.org/abs/2005.00928
    Yu et al., "Unveiling and Harnessing Hidden Attention Sinks: Enhancing Large Language Models without Training
    through Attention Calibration", ICML 2024. https://arxiv.org/abs/2406.15765
    """
    maps: list[Tensor] = []

    def see(_: int, a: Tensor) -> None:
        a = a.detach()
        if sinks is not None:
            rows = torch.arange(a.shape[-1], device=a.device)[None]
            a = calibrate(a, sink_columns(a, rows), sinks)
        maps.append(a.float().mean((0, 1)))

    with torch.no_grad():
        case.attend(see)
    return attention_rollout(maps)[case.where]
