"""Edges from every other token to its most similar partner, of which any number may be merged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .merge import Match


class Edges(NamedTuple):
    """Of each even token, its cosine to the most similar odd one (-inf: it may not merge) and that one's position.

    Attributes:
        best: (B, na) float32.
        to: (B, na) int64.
    """

    best: Tensor
    to: Tensor


def edges(metric: Tensor, prefix: int = 0, absent: Tensor | None = None) -> Edges:
    """metric (B, n, d); the first ``prefix`` tokens, and those ``absent`` (B, n) bool, neither merge nor are joined."""
    b, n = metric.shape[:2]
    at = torch.arange(n, device=metric.device)
    if n < 2:
        return Edges(metric.new_full((b, n), -torch.inf, dtype=torch.float32), at.expand(b, n))
    out = (at < prefix).expand(b, n) if absent is None else (at < prefix) | absent
    unit = normalize(metric.float(), dim=-1)
    sim = unit[:, ::2] @ unit[:, 1::2].mT
    sim = sim.masked_fill(out[:, ::2, None] | out[:, None, 1::2], -torch.inf)
    best, choice = sim.max(-1)
    return Edges(best, 2 * choice + 1)


def cap(best: Tensor, most: int) -> Tensor:
    """best (B, na) with all but the ``most`` highest of each row at -inf."""
    rank = best.argsort(stable=True, dim=-1, descending=True)
    return best.scatter(1, rank[:, max(0, most) :], -torch.inf)


def pooled(best: Tensor, r: int) -> tuple[Tensor, float]:
    """The highest edges of a whole batch, r a row on average. best (B, na) -> chosen (B, na) bool, and a threshold.

    The threshold is the first edge that is not chosen, at least 0.
    """
    rank = best.flatten().argsort(stable=True, descending=True)
    last = min(len(rank), best.shape[0] * max(0, r))
    chosen = torch.zeros_like(best, dtype=torch.bool).flatten()
    chosen[rank[:last]] = True
    rest = best.flatten()[rank[last:]]
    return chosen.view_as(best) & best.isfinite(), max(0.0, float(rest[0])) if len(rest) else 0.0


def joined(found: Edges, chosen: Tensor, n: int) -> Tensor:
    """into (B, n): the chosen (B, na) even tokens point to their partners, all others to themselves."""
    into = torch.arange(n, device=chosen.device).repeat(chosen.shape[0], 1)
    into[:, ::2] = torch.where(chosen, found.to, into[:, ::2])
    return into


def listing(found: Edges, into: Tensor, prefix: int) -> Match:
    """``into`` with the order in which :func:`parts.merge.bipartite` lists what is left; rows of equal length."""
    at = torch.arange(into.shape[1], device=into.device)
    stays = into == at
    rank = found.best.argsort(stable=True, dim=-1, descending=True)
    if bool(stays.all()):
        return Match(into, into)
    even = stays[:, ::2].gather(1, rank)
    stay = (2 * rank)[even].view(len(into), -1)
    return Match(into, torch.cat([stay.sort(-1).values if prefix else stay, at[1::2].expand(len(into), -1)], 1))
