"""One query that stands for a window of them, and how a budget is shared by layers as they are asked one by one."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Bias:
    """How far a window's queries lie from those seen so far: running mean and variance of every channel.

    Args:
        limit: windows after which old ones are forgotten at a constant rate; the weights are equal until then.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.calls, self.count = limit, 0, 0
        self.mean = self.var = torch.zeros(())

    def weights(self, queries: Tensor, valid: Tensor | None = None) -> Tensor:
        """Take in a window (B, w, C), of which valid (B, w) bool is no padding -> weights of its queries (B, w)."""
        x = queries.float()
        real = torch.ones(x.shape[:2], device=x.device) if valid is None else valid.float()
        w = real.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
        mean = (x * real[..., None]).sum(1) / w
        var = ((x - mean[:, None]).square() * real[..., None]).sum(1) / w
        n = self.count
        if not n:
            self.mean, self.var = mean, var * w / (w - 1).clamp(min=1)
        else:
            more = var + (mean - self.mean).square() / (1 + 1 / n)
            self.var = (self.var * (n - 1 / w) + more) / (n + 1 - 1 / w)
            self.mean = (self.mean * n + mean) / (n + 1)
        self.calls, self.count = self.calls + 1, min(n + 1, max(1, self.limit))
        if self.limit and self.calls <= self.limit + 1:
            return real / w
        spread = self.var + self.var.mean(-1, keepdim=True) / 100
        far = ((x - self.mean[:, None]).square() / spread.clamp(min=1e-30)[:, None]).mean(-1) * real
        total = far.sum(1, keepdim=True)
        return torch.where(total > 0, far / total.clamp(min=1e-30), real / w)


def probe(queries: Tensor, weights: Tensor) -> Tensor:
    """queries (B, w, C), weights (B, w) -> (B, C)."""
    return (weights[:, None] @ queries.float())[:, 0]


def evenness(scores: Tensor) -> Tensor:
    """scores (..., n) -> (...): entropy of their softmax as a share of the largest possible one."""
    log = scores.float().log_softmax(-1)
    return -(log.exp() * log).sum(-1) / math.log(max(2, scores.shape[-1]))


class Shares:
    """A budget for each layer of a pass: equal ones at first, then in proportion to recent scores of the layers.

    Args:
        layers: how many there are, asked in order.
        budget: of all of them.
        warmup: scores of each layer that are averaged, and needed before they count.
    """

    def __init__(self, layers: int, budget: int, warmup: int) -> None:
        self.budget, self.warmup, self.calls = budget, warmup, 0
        self.scores: list[list[float]] = [[] for _ in range(layers)]

    def take(self, layer: int, score: float, least: int, most: int) -> int:
        """The next layer's budget, given its score now."""
        self.calls += 1
        self.scores[layer].append(score)
        layers, share = len(self.scores), 1 / (len(self.scores) - layer)
        if self.calls > layers and all(len(s) >= self.warmup for s in self.scores):
            recent = [sum(s[-self.warmup :]) / self.warmup for s in self.scores]
            share = recent[layer] / max(sum(recent[layer:]), 1e-30)
        return max(least, min(most, round(share * self.budget)))
