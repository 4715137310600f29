"""Who is merged into whom. Every matching answers with ``into`` (B, n): the position each token merges into."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import elu, normalize

from ..reduction import Reduction

#: How ranked tokens become sources and destinations; see :func:`energy_match`.
Pair = Literal["alternate", "halves", "all"]


class Match(NamedTuple):
    """A matching: ``into`` (B, n), and ``order`` (B, m), the surviving positions in the order the papers list them."""

    into: Tensor
    order: Tensor


def untouched(x: Tensor) -> Match:
    """Nothing is merged. x (B, n, ...)."""
    at = torch.arange(x.shape[1], device=x.device).repeat(x.shape[0], 1)
    return Match(at, at)


def bipartite(metric: Tensor, r: int, prefix: int = 0, first: int = 0) -> Match:
    """Merge the r most similar of the even tokens into odd ones. metric (B, n, d), n - prefix >= 2 r.

    Even positions are sources, odd ones destinations; each source picks its most similar destination. With a prefix its
    tokens, from ``first`` on, are never sources (even) nor destinations (odd); if token 0 is one of them, the surviving
    sources are listed in token order.
    """
    if r <= 0:
        return untouched(metric)
    n = metric.shape[1]
    unit = normalize(metric.float(), dim=-1)
    a, b = unit[:, ::2], unit[:, 1::2]
    sim = a @ b.mT
    sim[:, (first + 1) // 2 : (prefix + 1) // 2] = -torch.inf
    sim[:, :, first // 2 : prefix // 2] = -torch.inf
    best, choice = sim.max(-1)  # (B, na)
    rank = best.argsort(stable=True, dim=-1, descending=True)
    gone, stay = rank[:, :r], rank[:, r:]
    if prefix > first == 0:
        stay = stay.sort(-1).values
    into = untouched(metric).into.scatter(1, 2 * gone, 2 * choice.gather(1, gone) + 1)
    odd = torch.arange(1, n, 2, device=metric.device).expand(metric.shape[0], -1)
    return Match(into, torch.cat([2 * stay, odd], 1))


def strided(metric: Tensor, k: int) -> Match:
    """Every k-th token is a destination, all others join the most similar one; a remainder of n mod k is dropped."""
    b, n = metric.shape[:2]
    whole = n // k * k
    if not whole or k < 2:
        return untouched(metric)
    unit = normalize(metric[:, :whole].float(), dim=-1)
    to = torch.arange(k - 1, whole, k, device=metric.device)
    choice = (unit @ unit[:, to].mT).argmax(-1)  # (B, whole)
    into = torch.full((b, n), -1, device=metric.device)
    into[:, :whole] = to[choice]
    into[:, to] = to
    return Match(into, to.expand(b, -1))


def split(metric: Tensor, sources: Tensor, others: Tensor) -> Match:
    """Given sources (B, r) each join the most similar of the others (B, n - r). metric (B, n, d)."""
    unit = normalize(metric.float(), dim=-1)
    if not sources.shape[1] or not others.shape[1]:
        return Match(untouched(metric).into, torch.cat([sources, others], 1))
    rows = torch.arange(metric.shape[0], device=metric.device)[:, None]
    choice = (unit[rows, sources] @ unit[rows, others].mT).argmax(-1)
    return Match(untouched(metric).into.scatter(1, sources, others.gather(1, choice)), others)


def elu_energy(metric: Tensor, margin: float, alpha: float = 1.0) -> Tensor:
    """How redundant each token is: mean over all tokens of ELU(cosine - margin). metric (B, n, d) -> (B, n)."""
    unit = normalize(metric.float(), dim=-1)
    return elu(unit @ unit.mT - margin, alpha=alpha).mean(-1)


def gaussian_energy(metric: Tensor, margin: float) -> Tensor:
    """As :func:`elu_energy`, but the mean density of 1 - cosine under a normal distribution of width 1 - margin."""
    unit = normalize(metric.float(), dim=-1)
    width = max(1 - margin, 1e-6)
    return torch.exp(-0.5 * ((1 - unit @ unit.mT) / width) ** 2).mean(-1) / (width * math.sqrt(2 * math.pi))


def energy_match(metric: Tensor, r: int, redundancy: Tensor, pair: Pair = "alternate") -> Match:
    """Merge r tokens among the most redundant ones. metric (B, n, d), redundancy (B, n).

    Tokens are ranked by redundancy, highest first. The first 2 r ranks are sources and destinations and the rest is
    untouched: "alternate" takes turns, "halves" has sources first. "all": all ranks take turns, and the r sources most
    similar to a destination merge.
    """
    b = metric.shape[0]
    unit = normalize(metric.float(), dim=-1)
    rank = redundancy.argsort(stable=True, dim=-1, descending=True)
    into = untouched(metric).into
    if pair == "all":
        a, dst = rank[:, ::2], rank[:, 1::2]
    elif pair == "halves":
        a, dst = rank[:, :r], rank[:, r : 2 * r]
    else:
        a, dst = rank[:, : 2 * r : 2], rank[:, 1 : 2 * r : 2]
    if not dst.shape[1]:
        return Match(into, rank)
    rows = torch.arange(b, device=metric.device)[:, None]
    best, choice = (unit[rows, a] @ unit[rows, dst].mT).max(-1)
    if pair != "all":
        return Match(into.scatter(1, a, dst.gather(1, choice)), torch.cat([rank[:, 2 * r :], dst], 1))
    by = best.argsort(stable=True, dim=-1, descending=True)
    gone, stay = by[:, :r], by[:, r:]
    into = into.scatter(1, a.gather(1, gone), dst.gather(1, choice.gather(1, gone)))
    return Match(into, torch.cat([a.gather(1, stay), dst], 1))


def shift(match: Match, prefix: int) -> Match:
    """The same matching on tokens that follow ``prefix`` untouched ones."""
    if not prefix:
        return match
    head = torch.arange(prefix, device=match.into.device).expand(match.into.shape[0], -1)
    into = torch.where(match.into >= 0, match.into + prefix, -1)
    return Match(torch.cat([head, into], 1), torch.cat([head, match.order + prefix], 1))


def uneven(into: Tensor, size: Tensor | None = None) -> Reduction:
    """As :meth:`Reduction.merge` where rows may end with different numbers of tokens. into (B, n), size (B, n)."""
    stays = (into == torch.arange(into.shape[1], device=into.device)).sum(-1).tolist()
    if len(set(stays)) < 2:
        return Reduction.merge(into, size)
    rows = [slice(b, b + 1) for b in range(into.shape[0])]
    return Reduction.stack([Reduction.merge(into[b], None if size is None else size[b]) for b in rows])
