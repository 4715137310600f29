"""Groups of KV heads as one head each: entries in the directions that the heads of a group use most."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..parts.longest import longest
from .stream import Code, Coder


def grouped(x: Tensor, group: int) -> Tensor:
    """(B, g, t, d) -> (B, G, t, group d): heads of a group side by side, zeros where the last one has fewer."""
    x = pad(x, (0, 0, 0, 0, 0, -x.shape[1] % group))
    side: Tensor = x.unflatten(1, (-1, group)).transpose(2, 3).flatten(3)
    return side


def directions(x: Tensor, group: int, rank: int) -> Tensor:
    """x (B, g, t, d) -> (B, G, group d, rank) orthonormal: where the entries of each group are longest (float32).

    The right singular vectors of all entries of a group, heads side by side, the strongest first.
    """
    return longest(grouped(x, group), rank)


@dataclass(frozen=True)
class GroupedHeads(Coder):
    """``group`` heads are stored as one of ``rank`` channels.

    Attributes:
        basis: (B, G, group d, rank), orthonormal columns.
        group: heads of a group.
    """

    basis: Tensor
    group: int

    @property
    def block(self) -> int:
        return 1

    @property
    def state(self) -> Code:
        return (self.basis,)

    def encode(self, x: Tensor) -> Code:
        """x (B, g, t, d) -> (B, t, G, rank) in x's dtype."""
        part = grouped(x.float(), self.group) @ self.basis.float()
        return (part.transpose(1, 2).to(x.dtype).contiguous(),)

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The numbers again, float32 (B, g, t, d)."""
        flat = code[0].float().transpose(1, 2) @ self.basis.float().mT  # (B, G, t, group d)
        heads: Tensor = flat.unflatten(3, (self.group, -1)).transpose(2, 3).flatten(1, 2)
        return heads[:, : shape[1]]

    def select(self, rows: Tensor) -> Coder:
        """For these rows of the batch."""
        return replace(self, basis=self.basis[rows])
