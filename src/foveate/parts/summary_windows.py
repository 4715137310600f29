"""Reading a long sequence window by window, each of which leaves only the entries of its summary tokens.

Video-XL (Shu et al., "Video-XL: Extra-Long Vision Language Model for Hour-Scale Video Understanding", CVPR 2025,
https://arxiv.org/abs/2409.14485) trains such tokens, with projections of their own. This is the bookkeeping: what each
chunk reads, what it may see, at which positions, and what the cache then holds. It needs a model trained for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """One step of reading. Raw token i is written i, the j-th summary token -1 - j.

    Attributes:
        tokens: (c,) int64 what is read, memory: (p,) int64 the entries that the cache holds before.
        allowed: (c, p + c) bool, positions: (p + c,) int64 of memory and tokens; they start anew in every chunk.
        after: what the cache holds then.
    """

    tokens: Tensor
    memory: Tensor
    allowed: Tensor
    positions: Tensor
    after: Tensor


@dataclass(frozen=True)
class SummaryWindows:
    """How a sequence is read.

    Attributes:
        window: raw tokens of a full window, ratio: raw tokens for each summary token (0: windows stay raw).
        place: "interleave" puts a summary token after every ``ratio`` raw ones, "append" all at the end of the window.
        sight: what summary tokens see of their window: "full-coverage" all before them, "step-expansion" ratio more
            than the one before, "segmentation" only their own ratio.
        see_earlier: whether they see earlier summary tokens of their window.
        first: so many tokens are read and kept raw before windows begin; last: from that token on all stay raw.
    """

    window: int
    ratio: int
    place: str = "interleave"
    sight: str = "full-coverage"
    see_earlier: bool = True
    first: int | None = None
    last: int | None = None
    _order: tuple[str, ...] = field(default=("sinks", "summaries", "raw"), repr=False)

    def read(self, n: int) -> Iterator[Chunk]:
        """The chunks of a sequence of n tokens."""
        held: dict[str, list[int]] = {name: [] for name in self._order}
        made, owed, at = 0, 0, 0
        while at < n:
            summarised, kind = False, "raw"
            wide = self.window
            if self.last is not None and at < self.last < at + wide:
                wide = self.last - at
            end = min(at + wide, n)
            if self.first is not None and not at and self.first:
                end, kind = self.first, "sinks"
            elif self.last is None or at < self.last:
                summarised = at + wide <= n
            tokens = list(range(at, end))
            opened = kind == "raw" and (self.last is None or at < self.last)
            if opened and self.ratio > 0 and (self.place == "interleave" or summarised):
                tokens, owed, made = self._with_summaries(tokens, owed, made)
            memory = [t for name in self._order for t in held[name]]
            allowed, positions = self._sight(torch.tensor(tokens), len(memory))
            if summarised:
                held["summaries"] += [t for t in tokens if t < 0 or self.ratio == 0]
                held["raw"] = []
            else:
                held[kind] += tokens
            after = [t for name in self._order for t in held[name]]
            read, before, left = (torch.tensor(t, dtype=torch.int64) for t in (tokens, memory, after))
            yield Chunk(read, before, allowed, positions, left)
            at = end

    def _with_summaries(self, raw: list[int], owed: int, made: int) -> tuple[list[int], int, int]:
        """Tokens with summary tokens among or behind them; raw ones not yet summed up; summary tokens so far."""
        if self.place == "append":
            new = len(raw) // self.ratio
            return raw + [-1 - made - j for j in range(new)], 0, made + new
        out = []
        for token in raw:
            out.append(token)
            owed += 1
            if owed == self.ratio:
                out.append(-1 - made)
                owed, made = 0, made + 1
        return out, owed, made

    def _sight(self, tokens: Tensor, memory: int) -> tuple[Tensor, Tensor]:
        """Who sees whom in a chunk, and the positions of memory and chunk."""
        c = len(tokens)
        at = torch.arange(c)
        inside = at <= at[:, None]
        positions = torch.arange(memory + c)
        summary = tokens < 0
        new = int(summary.sum())
        if self.sight == "full-coverage" or not new:
            pass
        elif self.place == "interleave":  # raw tokens are as if there were no summary tokens among them
            inside = (inside & ~summary) | torch.eye(c, dtype=torch.bool)
            step = torch.ones(c, dtype=torch.int64)
            step[self.ratio + 1 :: self.ratio + 1] = 0
            positions[memory:] = memory - 1 + step.cumsum(0)
        else:
            raw, j = c - new, torch.arange(new)
            own = torch.arange(raw) // self.ratio
            inside[raw:, :raw] = own == j[:, None] if self.sight == "segmentation" else own <= j[:, None]
            inside[raw:, raw:] = j <= j[:, None] if self.see_earlier else j == j[:, None]
            ends = self.ratio * (j + 1) if self.sight == "step-expansion" else torch.full_like(j, self.ratio)
            positions[memory + raw :] = memory + ends + (j if self.see_earlier else 0)
        return torch.cat([torch.ones(c, memory, dtype=torch.bool), inside], 1), positions
