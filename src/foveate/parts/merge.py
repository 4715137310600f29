"""Who is merged into whom. Every matching answers with ``into`` (B, n): the position each token merges into."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import elu, normalize


class Match(NamedTuple):
    """A matching: ``into`` (B, n), and ``order`` (B, m), the surviving positions in the order the papers list them."""

    into: Tensor
    order: Tensor


def bipartite(metric: Tensor, r: int, prefix: int = 0) -> Match:
    """Merge the r most similar of the even tokens into odd ones. metric (B, n, d), n - prefix >= 2 r.

    Even positions are sources, odd ones destinations; each source picks its most similar destination. With a prefix its
    tokens are never sources (even) nor destinations (odd), and the surviving sources are listed in token order.
    """
    n = metric.shape[1]
    unit = normalize(metric.float(), dim=-1)
    a, b = unit[:, ::2], unit[:, 1::2]
    sim = a @ b.mT
    if prefix:
        sim[:, : (prefix + 1) // 2] = -torch.inf
        sim[:, :, : prefix // 2] = -torch.inf
    best, choice = sim.max(-1)  # (B, na)
    rank = best.argsort(-1, descending=True, stable=True)
    gone, stay = rank[:, :r], rank[:, r:]
    if prefix:
        stay = stay.sort(-1).values
    into = torch.arange(n, device=metric.device).repeat(metric.shape[0], 1)
    into = into.scatter(1, 2 * gone, 2 * choice.gather(1, gone) + 1)
    odd = torch.arange(1, n, 2, device=metric.device).expand(metric.shape[0], -1)
    return Match(into, torch.cat([2 * stay, odd], 1))


def strided(metric: Tensor, k: int) -> Match:
    """Every k-th token is a destination, all others join the most similar one; a remainder of n mod k is dropped."""
    b, n = metric.shape[:2]
    whole = n // k * k
    unit = normalize(metric[:, :whole].float(), dim=-1)
    to = torch.arange(k - 1, whole, k, device=metric.device)
    choice = (unit @ unit[:, to].mT).argmax(-1)  # (B, whole)
    into = torch.full((b, n), -1, device=metric.device)
    into[:, :whole] = to[choice]
    into[:, to] = to
    return Match(into, to.expand(b, -1))


def energy(metric: Tensor, margin: float, alpha: float = 1.0) -> Tensor:
    """How redundant each token is: mean over all tokens of ELU(cosine - margin). metric (B, n, d) -> (B, n)."""
    unit = normalize(metric.float(), dim=-1)
    return elu(unit @ unit.mT - margin, alpha=alpha).mean(-1)


def energy_match(metric: Tensor, r: int, redundancy: Tensor, protect: bool = True) -> Match:
    """Merge r tokens among the most redundant ones. metric (B, n, d), redundancy (B, n).

    Tokens are ranked by redundancy, highest first. ``protect``: the first 2 r ranks alternate source and destination and
    the rest is untouched; otherwise all ranks alternate and the r most similar sources merge.
    """
    b, n = metric.shape[:2]
    unit = normalize(metric.float(), dim=-1)
    rank = redundancy.argsort(-1, descending=True, stable=True)
    pool = rank[:, : 2 * r] if protect else rank
    a, dst = pool[:, ::2], pool[:, 1::2]
    rows = torch.arange(b, device=metric.device)[:, None]
    best, choice = (unit[rows, a] @ unit[rows, dst].mT).max(-1)
    into = torch.arange(n, device=metric.device).repeat(b, 1)
    if protect:
        kept = rank[:, 2 * r :]
        into = into.scatter(1, a, dst.gather(1, choice))
    else:
        by = best.argsort(-1, descending=True, stable=True)
        gone = by[:, :r]
        kept = a.gather(1, by[:, r:])
        into = into.scatter(1, a.gather(1, gone), dst.gather(1, choice.gather(1, gone)))
    return Match(into, torch.cat([kept, dst], 1))


def shift(match: Match, prefix: int) -> Match:
    """The same matching on tokens that follow ``prefix`` untouched ones."""
    if not prefix:
        return match
    head = torch.arange(prefix, device=match.into.device).expand(match.into.shape[0], -1)
    into = torch.where(match.into >= 0, match.into + prefix, -1)
    return Match(torch.cat([head, into], 1), torch.cat([head, match.order + prefix], 1))
