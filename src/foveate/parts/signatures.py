"""Bit strings that say how heads treat a token, and few representatives of many of them."""

from __future__ import annotations

import torch
from torch import Tensor

ANCHORS = ("mean", "zeros", "ones", "alternating", "random")


def better_half(score: Tensor, real: Tensor | None = None) -> Tensor:
    """True at the floor(n / 2) highest of each row. score (..., n), real (..., n) bool: which ones count, or None."""
    score = score.float()
    half = torch.tensor(score.shape[-1] // 2, device=score.device)
    if real is not None:
        score = score.masked_fill(~real, -torch.inf)
        half = real.sum(-1, keepdim=True) // 2
    order = score.argsort(dim=-1, descending=True, stable=True)
    at = torch.arange(score.shape[-1], device=score.device).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, at) < half


def anchor_bits(bits: Tensor, kind: str, real: Tensor | None = None) -> Tensor:
    """The string to compare with. bits (B, n, L) bool, real (B, n) bool or None -> (B, L).

    "mean" has a bit where more than half of the strings have it; "alternating" starts with 0.
    """
    b, n, length = bits.shape
    if kind == "mean":
        real = torch.ones(b, n, dtype=torch.bool, device=bits.device) if real is None else real
        return (bits & real[..., None]).sum(1) * 2 > real.sum(1, keepdim=True)
    if kind == "random":
        one = torch.rand(length, generator=torch.Generator().manual_seed(0)) < 0.5
        return one.to(bits.device).expand(b, length)
    at = torch.arange(length, device=bits.device)
    one = {"zeros": at < 0, "ones": at >= 0, "alternating": at % 2 == 1}[kind]
    return one.expand(b, length)


def hamming(bits: Tensor, anchor: Tensor) -> Tensor:
    """In how many bits each string differs: bits (B, n, L), anchor (B, L) -> (B, n)."""
    return (bits != anchor[:, None]).sum(-1)


def spaced(distance: Tensor, candidate: Tensor, r: int, last: Tensor | None = None) -> Tensor:
    """Representatives of all distances: of the candidates, nearest first, every c // r-th. -> (B, r) positions.

    distance (B, n), candidate (B, n) bool. Where there are fewer than r of them, those in ``last`` (B, n) follow from
    the left.
    """
    far = torch.where(candidate, distance.float(), torch.inf)
    if last is not None:
        far = torch.where(last & ~candidate, torch.finfo(torch.float32).max, far)
    order = far.argsort(dim=-1, stable=True)
    step = (candidate.sum(-1, keepdim=True) // max(r, 1)).clamp(min=1)
    return order.gather(1, torch.arange(r, device=order.device) * step)
