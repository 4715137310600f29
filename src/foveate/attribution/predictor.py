"""A small convolution that learns to read a relevance map off the attention of the first LLM layer.

Lei et al., "Generic Token Compression in Multimodal Large Language Models from an Explainability Perspective", 2025.
https://arxiv.org/abs/2506.01097

Relevance costs a whole pass and a backward one; the first layer's attention is nearly free. The network is trained
apart from the model, on pairs of the two, and being convolutional it reads grids of any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..prompt import Prompt
from .case import Enough, opened


class RelevanceNet(nn.Module):
    """Three convolutions over the grid of each frame. The same seed gives the same weights."""

    def __init__(self, heads: int, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(heads, width, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(width, 1, 1),
            )

    def forward(self, attention: Tensor) -> Tensor:
        """attention (B, H, t, h, w) -> log of the predicted shares of relevance, (B, t h w)."""
        b, heads, t, h, w = attention.shape
        level = attention.float() * (t * h * w)  # 1 on average when all attention is on the image, whatever its size
        frames = torch.log1p(level).transpose(1, 2).reshape(b * t, heads, h, w)
        out: Tensor = self.body(frames).reshape(b, t * h * w).log_softmax(-1)
        return out


def fit(
    attention: Sequence[Tensor],
    relevance: Sequence[Tensor],
    steps: int = 300,
    rate: float = 1e-2,
    width: int = 16,
    seed: int = 0,
) -> RelevanceNet:
    """Train a predictor. attention: (H, t, h, w) each, relevance: (t h w,) each; negative relevance counts as none.

    Adam on the mean KL divergence over all pairs, every pair in every step, so ``seed`` fixes the outcome.
    """
    net = RelevanceNet(attention[0].shape[0], width, seed).to(attention[0].device)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, a in enumerate(attention):
        groups.setdefault(tuple(a.shape), []).append(i)
    pairs = [
        (torch.stack([attention[i] for i in g]), torch.stack([_shares(relevance[i]) for i in g]))
        for g in groups.values()
    ]
    adam = torch.optim.Adam(net.parameters(), lr=rate)
    with torch.enable_grad():
        for _ in range(steps):
            losses = [nn.functional.kl_div(net(a), wanted, reduction="sum") for a, wanted in pairs]
            adam.zero_grad()
            (torch.stack(losses).sum() / len(attention)).backward()
            adam.step()
    return net.eval().requires_grad_(False)


def first_attention(model: Any, inputs: Mapping[str, Any] | Prompt) -> Tensor:
    """Attention of the text after the visual tokens on them, in the first LLM layer, averaged over the text: (H, n)."""
    maps: list[Tensor] = []

    def see(_: int, a: Tensor) -> None:
        maps.append(a)
        raise Enough

    with opened(model, inputs, target=0, eager=True) as case, torch.no_grad():
        with suppress(Enough):
            case.attend(see)
        asks = slice(int(case.where[-1]) + 1, len(case.ids))
        return maps[0][0, :, asks].float().mean(1)[:, case.where]


def _shares(score: Tensor) -> Tensor:
    """(n,) -> (n,) at least 0, summing to 1; even where nothing is relevant."""
    score = score.float().clamp(min=0)
    total = score.sum()
    return score / total if bool(total > 0) else torch.full_like(score, 1 / len(score))
