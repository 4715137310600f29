"""A memory of bounded length: recent clips as they came, older ones thinned, those that brought little news most.

Three ideas meet here. Clips enter one after the other and the memory never grows past its cap (VideoStreaming, Qian et
al. 2024, https://arxiv.org/abs/2405.16009, which trains a small model to do it). Recent chunks are kept densely and
older ones sparsely (Video-XL-2, https://arxiv.org/abs/2506.19225). And where every clip is down to one token, of the
two neighbours that are most alike the earlier one leaves (VideoScan, https://arxiv.org/abs/2503.09387).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import PlanError
from ..method import Keep
from .seen import Seen
from .split import blind

#: How little a clip counts at least that brings nothing new: ten such share the place of one that is all new.
LEAST_NEWS = 0.1
#: Once the cap is passed the memory is brought this share below it, so that not every clip costs a reduction.
ROOM = 1 / 16
_KNOWN = {"features", "grid", "times", "size"}


@dataclass
class Clip:
    """One clip of the memory, and how much news it brought: 1 is unlike all in the clip before, 0.1 the same again."""

    seen: Seen
    news: float


class Memory:
    """Clips in order of time, at most ``cap`` tokens together.

    Args:
        cap: most tokens. recent: share of them for the latest clips, which are thinned last.
        method: of stage inputs, with an option ``keep``; it brings a clip down to half of its tokens.

    Raises:
        PlanError: the method cannot do that from the tokens alone.
    """

    def __init__(self, cap: int, recent: float, method: Any) -> None:
        self.cap, self.recent, self.method = cap, recent, _thinner(method)
        self.clips: list[Clip] = []
        self._total: Tensor | None = None  # sum of all directions so far, whose mean they share
        self._count = 0
        self._last: Tensor | None = None

    @property
    def n(self) -> int:
        """Tokens held."""
        return sum(c.seen.n for c in self.clips)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        last = 0 if self._last is None else self._last.numel() * self._last.element_size()
        return sum(c.seen.nbytes for c in self.clips) + last

    def add(self, seen: Seen) -> None:
        """Remember a clip; forgets of the others, and of it, what the cap has no room for."""
        if not seen.n:
            return
        self.clips.append(Clip(seen, self._news(seen.x)))
        if self.n > self.cap:
            self._shrink(self.cap - int(self.cap * ROOM))

    def _news(self, x: Tensor) -> float:
        """How far the tokens lie, in the mean, from the most similar one of the clip before. x (m, D)."""
        unit = normalize(x.float(), dim=-1)
        total = unit.sum(0).double()
        self._total = total if self._total is None else self._total + total
        self._count += len(x)
        before, self._last = self._last, unit
        if before is None:
            return 1.0
        mean = (self._total / self._count).float()
        like = normalize(unit - mean, dim=-1) @ normalize(before - mean, dim=-1).T
        return min(1.0, max(LEAST_NEWS, float((1 - like.amax(1)).mean())))

    def _shrink(self, target: int) -> None:
        while (held := self.n) > target:
            victim = self._victim()
            if victim is None:
                self._forget_one()
                continue
            clip = self.clips[victim]
            half = max(1, clip.seen.n // 2, clip.seen.n - (held - target))
            keep = half if half < clip.seen.n else clip.seen.n - 1
            clip.seen = self._thin(clip.seen, keep)

    def _victim(self) -> int | None:
        """The clip with the most tokens for the news it brought, the oldest of equal ones; recent ones only if all
        others are down to one token."""
        room, first = self.recent * self.cap, len(self.clips)
        while first > 0 and (room := room - self.clips[first - 1].seen.n) >= 0:
            first -= 1
        for clips in (range(first), range(first, len(self.clips))):
            many = [(self.clips[i].seen.n / self.clips[i].news, -i) for i in clips if self.clips[i].seen.n > 1]
            if many:
                return -max(many)[1]
        return None

    def _thin(self, seen: Seen, keep: int) -> Seen:
        tokens = seen.tokens()
        r = replace(self.method, keep=keep).reduce(tokens)
        made = seen.reduced(r)
        return made if made.n <= keep else made.reduced(_first(made.n, keep, made.x.device))

    def _forget_one(self) -> None:
        """Every clip is down to one token: of the two neighbours most alike the earlier one leaves."""
        unit = normalize(torch.stack([c.seen.x[0] for c in self.clips]).float(), dim=-1)
        del self.clips[int((unit[1:] * unit[:-1]).sum(-1).argmax()) if len(self.clips) > 1 else 0]


def _first(n: int, keep: int, device: torch.device) -> Any:
    from ..reduction import Reduction

    return Reduction.take(torch.arange(keep, device=device)[None], n)


def _thinner(method: Any) -> Any:
    form = blind(method)
    stage = getattr(method, "stage", None)
    takes = {f.name: f.metadata.get("check") for f in fields(method)} if hasattr(method, "card") else {}
    if form is None or stage != "inputs" or not isinstance(takes.get("keep"), Keep):
        raise PlanError(f"'merge' is a method of stage inputs with an option 'keep', such as foveal. Got {method}.")
    needs = [n for n in form.card.needs if not set(n.split("|")) & (_KNOWN | {"text"})]
    if needs:
        raise PlanError(f"'merge' works on tokens alone, and {method.name} needs {needs[0]}; use foveal or divprune")
    return form


def within(clips: Sequence[Seen], scores: Sequence[float], budget: int) -> list[int]:
    """Indices, in order of time, of the best clips that together hold at most ``budget`` tokens (at least one clip)."""
    picked: list[int] = []
    left = budget
    for i in sorted(range(len(clips)), key=lambda i: (-scores[i], i)):
        if clips[i].n <= left or not picked:
            picked.append(i)
            left -= clips[i].n
    return sorted(picked)
