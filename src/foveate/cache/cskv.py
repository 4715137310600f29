"""CSKV: fewer channels of old keys and values, the newest entries whole.

Wang et al., "CSKV: Training-Efficient Channel Shrinking for KV Cache in Long-Context Scenarios", 2024.
https://arxiv.org/abs/2409.10593

Keys and values of all heads together lie near a subspace. Old entries are stored as their part in it, in a few bits:
keys per channel over ``window`` tokens, values per token. Entries that do not yet fill a window stay whole.

The authors train two matrices for each layer and apply the first to hidden states and RoPE after the second. Here both
work on the cache as it is, after RoPE. ``weights`` is a safetensors file with tensors "<layer>.keys.down" (g d, r),
"<layer>.keys.up" (r, g d) and the same for values. Without it the subspace is that of the prompt's own entries, which
takes no training and is stored with them. ``variant="code"``: codes of zero are clamped to what the bits hold, as in
the published code, so a channel of one sign saturates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..stores.coders import Plain
from ..stores.compact import Compact, Halves
from ..stores.lowrank import Projected, principal
from ..stores.packed import Grid, Tile, filled, small
from ..stores.stream import Coder, Stream
from ..tokens import Entries


@dataclass(frozen=True)
class File:
    """The name of a file, or nothing."""

    def fits(self, value: Any) -> bool:
        return isinstance(value, str)

    def __str__(self) -> str:
        return "the name of a file"

    def bad(self) -> list[Any]:
        return [3, None, ("a", "b")]


@method(
    title="CSKV: Training-Efficient Channel Shrinking for KV Cache in Long-Context Scenarios",
    url="https://arxiv.org/abs/2409.10593",
    systems=("S084",),
    needs=(),
    training="matrices for each layer (it also runs without)",
    cost="a product with r columns; without weights the eigenvectors of a (g d)^2 matrix",
    vectors=("cskv",),
)
class CSKV:
    """Low-rank projection and quantisation."""

    keep: float | int = option(0.5, Keep(), "share (float) or number (int) of channels, over all heads")
    bits: int = option(4, OneOf((2, 3, 4, 8, 16)), "bits of a stored number; 16 leaves it as it is")
    window: int = option(32, Range(1, kind=int), "entries that are compressed together")
    weights: str = option("", File(), "safetensors file with the projections; none takes them from the prompt")
    variant: str = option("paper", OneOf(("paper", "code")), "how a code of zero is chosen")

    def coder(self, side: str, scales: torch.dtype | None = None) -> Coder:
        """Of projected "keys" or "values"."""
        if self.bits == 16:
            return Plain()
        tile = Tile(self.window, 1) if side == "keys" else Tile(1, 0)
        return Grid(self.bits, tile, whole_zero=self.variant == "code", scales=scales)

    def pack(self, entries: Entries) -> Compact:
        """Keys and values (B, g, n, d), compressed."""
        sides = []
        for side, x in (("keys", entries.keys), ("values", entries.values)):
            x = filled(x, entries.valid)
            down, up = self.matrices(side, x, entries.layer)
            coder = Projected(self.coder(side, small(x)), down, up, given=bool(self.weights), dtype=x.dtype)
            sides.append(Stream(x, coder, step=self.window))
        return Halves(*sides)

    def matrices(self, side: str, x: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """x (B, g, n, d) -> down (B or 1, g d, r) and up (B or 1, r, g d)."""
        width = x.shape[1] * x.shape[3]
        if not self.weights:
            down = principal(x, budget(self.keep, width)).to(small(x))
            return down, down.mT
        tensors = _read(self.weights)
        try:
            down, up = (tensors[f"{layer}.{side}.{name}"].to(x.device)[None] for name in ("down", "up"))
        except KeyError as error:
            raise InputError(f"{self.weights} holds no tensor {error} for cskv") from None
        if down.shape[1] != width or up.shape[2] != width or down.shape[2] != up.shape[1]:
            raise InputError(
                f"the {side} of layer {layer} have {width} channels, and the projections in {self.weights} are "
                f"{tuple(down.shape[1:])} and {tuple(up.shape[1:])}"
            )
        return down, up


@lru_cache(maxsize=2)
def _read(path: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors
