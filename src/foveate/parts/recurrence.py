"""How long tokens stay away before attention comes back to them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Recurrence(NamedTuple):
    """What is known of each entry after some decoding steps.

    Attributes:
        step: how many steps there were.
        last: (..., n) float, the latest step that found it important.
        period: (..., n) float, the longest pause between such steps.
    """

    step: int
    last: Tensor
    period: Tensor

    @classmethod
    def start(cls, like: Tensor) -> Recurrence:
        """Before the first step. like (..., n): any tensor of that shape and device."""
        zero = torch.zeros(like.shape, device=like.device)
        return cls(0, zero, zero)

    def see(self, attention: Tensor, alpha: float) -> Recurrence:
        """After one more step. attention (..., n) of its query, its own entry last; at least ``alpha`` is important."""
        step, new = self.step + 1, attention.shape[-1] - self.last.shape[-1]
        born = self.last.new_full((*self.last.shape[:-1], new), float(self.step))
        last, period = torch.cat([self.last, born], -1), torch.cat([self.period, torch.zeros_like(born)], -1)
        hit = attention >= alpha
        period = torch.where(hit, torch.maximum(period, step - last), period)
        return Recurrence(step, torch.where(hit, float(step), last), period)

    def gathered(self, keep: Tensor) -> Recurrence:
        """Of the entries kept. keep (..., m) positions."""
        return Recurrence(self.step, self.last.gather(-1, keep), self.period.gather(-1, keep))

    def score(self) -> Tensor:
        """(..., n), higher is kept: not away for longer than it was before, and never away for long."""
        away = 2 / (1 + (1 + (self.step - self.last) / (self.period + 1e-5)).exp())
        return away + torch.where(self.period == 0, 0.0, 2 / (1 + (self.period - 1).exp()))


def observed(hits: Tensor) -> Recurrence:
    """The same from all steps at once. hits (..., w, n) bool: where each of w steps found an entry important."""
    w = hits.shape[-2]
    step = torch.arange(1, w + 1, device=hits.device, dtype=torch.float32)[:, None]
    last = torch.where(hits, step, 0.0).cummax(-2).values
    before = torch.cat([torch.zeros_like(last[..., :1, :]), last[..., :-1, :]], -2)
    return Recurrence(w, last[..., -1, :], torch.where(hits, step - before, 0.0).amax(-2))
