"""What a schedule of masked-diffusion decoding is: after a forward it says which masked positions are filled.

A schedule is one file in ``schedules/``: a class decorated with ``@method`` whose ``begin(block)`` returns a
:class:`Chooser` for one block. Most remember nothing and inherit from :class:`Stateless`.

    @method(title="...", url="...", needs=())
    class Half(Stateless):
        "Fill every position that is more likely right than wrong."

        def fill(self, look: Look) -> Tensor:
            return at_least_the_best(look.confidence > 0.5, look)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..method import Method


@dataclass(frozen=True)
class Block:
    """One block about to be decoded.

    Attributes:
        rows, size: of the block. length: positions to generate in all. mask_id: the mask's token.
    """

    rows: int
    size: int
    length: int
    mask_id: int


@dataclass(frozen=True)
class Look:
    """What a forward said of the positions of a block.

    Attributes:
        logits: (B, n, V) float32, after :meth:`Chooser.rescore`.
        tokens: (B, n) int64, what would be filled in: the most likely token, or a drawn one.
        confidence: (B, n), the probability of that token, also where a position is filled already; float64 for
            schedules that say so, else float32.
        masked: (B, n) bool, positions that are not filled yet.
        step: forwards in this block before this one.
        quota: (B,) int64, how many positions the fixed plan of ``steps`` fills now (1 where there is no plan).
    """

    logits: Tensor
    tokens: Tensor
    confidence: Tensor
    masked: Tensor
    step: int
    quota: Tensor

    @property
    def candidates(self) -> Tensor:
        """(B, n) confidence, -inf where a position is filled already."""
        return self.confidence.masked_fill(~self.masked, -torch.inf)


class Chooser(Protocol):
    """Decides during one block."""

    def rescore(self, logits: Tensor, masked: Tensor) -> Tensor:
        """logits (B, n, V) float32, masked (B, n) -> the logits that tokens and confidences are taken from."""
        ...

    def fill(self, look: Look) -> Tensor:
        """(B, n) bool: positions to fill now; positions that are filled already are ignored."""
        ...


class Schedule(Method, Protocol):
    """A method of masked-diffusion decoding.

    Attributes:
        precise: whether confidences are taken in float64 (as the code of some papers does) instead of float32.
        sizes: whether it chooses the length of a block, by ``size``.
    """

    precise: ClassVar[bool]
    sizes: ClassVar[bool]

    def begin(self, block: Block) -> Chooser: ...

    def window(self, length: int, remaining: int) -> int:
        """How many positions ``size`` looks at; asked only if ``sizes``."""
        ...

    def size(self, tokens: Tensor, confidence: Tensor, block: int) -> int:
        """tokens, confidence (n,) of the window after a block's first forward -> the length of the block."""
        ...


class Stateless:
    """Base of schedules that remember nothing between forwards and leave logits and block lengths as they are."""

    precise: ClassVar[bool] = True
    sizes: ClassVar[bool] = False

    def begin(self, block: Block) -> Chooser:
        """It remembers nothing, so it is its own chooser."""
        return self  # type: ignore[return-value]  # the subclass has fill

    def rescore(self, logits: Tensor, masked: Tensor) -> Tensor:
        """The logits as they are."""
        return logits

    def window(self, length: int, remaining: int) -> int:
        """Blocks have the length that was asked for."""
        return remaining

    def size(self, tokens: Tensor, confidence: Tensor, block: int) -> int:
        """The length that was asked for."""
        return block


def best(scores: Tensor, k: Tensor) -> Tensor:
    """The k highest of each row, ties by position. scores (B, n), -inf where there is no candidate; k (B,) -> bool."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter(-1, order, torch.arange(scores.shape[1], device=k.device).expand_as(order))
    return (rank < k[:, None]) & (scores > -torch.inf)


def at_least_the_best(fill: Tensor, look: Look) -> Tensor:
    """``fill`` and always each row's most confident candidate. (B, n) bool -> (B, n) bool."""
    return (fill & look.masked) | best(look.candidates, torch.ones_like(look.quota))
