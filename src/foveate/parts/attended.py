"""Which visual cache entries the deeper layers read while an answer is decoded: what the newest tokens look at."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


class Step(NamedTuple):
    """What one decoding step decided.

    Attributes:
        reads: (L,) bool, the cache positions that deeper layers read.
        rebuilt: whether the set was made anew.
        similarity: cosine of what this step and the step before look at; 0 at the first.
    """

    reads: Tensor
    rebuilt: bool
    similarity: float


class AttendedSet:
    """A set of visual cache entries that follows the attention of the newest token.

    At one layer of each step the newest token's attention to the visual span (mean over heads) is compared with that of
    the step before. Where it has changed, the entries it looks at most become the set; text is always read. Nothing
    leaves the cache, so an entry can come back.

    start, length: the visual span. drop: share of it that is not read. alike: cosine below which the set is made anew.
    reuse: otherwise read the set as it is; False reads everything then, as one published loop does.
    """

    def __init__(self, start: int, length: int, drop: float = 0.7, alike: float = 0.9, reuse: bool = True) -> None:
        self.start, self.length, self.alike, self.reuse = start, length, alike, reuse
        self.most = int(length * (1 - drop))
        self.looked: Tensor | None = None
        self.chosen: Tensor | None = None

    def step(self, attention: Tensor) -> Step:
        """attention (H, L): the newest token's attention on all L positions of the cache."""
        looked = attention.float().mean(0)[self.start : self.start + self.length]
        similarity = 0.0 if self.looked is None else float(cosine_similarity(looked, self.looked, dim=0))
        self.looked = looked
        rebuilt = similarity < self.alike
        if rebuilt:
            best = looked.argsort(stable=True, descending=True)[: self.most]
            self.chosen = torch.zeros_like(looked, dtype=torch.bool).scatter(0, best, True)
        reads = torch.ones(attention.shape[-1], dtype=torch.bool, device=attention.device)
        if self.chosen is not None and (rebuilt or self.reuse):
            reads[self.start : self.start + self.length] = self.chosen
        return Step(reads, rebuilt, similarity)
