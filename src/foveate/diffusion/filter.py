"""The filter of Learn2PD: a perceptron from the confidences of a block to one logit for each position.

Bao et al., arXiv 2509.25188.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError

NAMES = ("up.weight", "up.bias", "down.weight", "down.bias")


class Filter(nn.Module):
    """(..., size) confidences -> (..., size) logits of "this token is final". Hidden width: twice the size."""

    def __init__(self, size: int, hidden: int | None = None) -> None:
        super().__init__()
        self.size = size
        self.up = nn.Linear(size, hidden or 2 * size)
        self.down = nn.Linear(hidden or 2 * size, size)

    def forward(self, confidence: Tensor) -> Tensor:
        """A shorter block (the last one) is filled up with confidence 1: positions that are settled."""
        n = confidence.shape[-1]
        whole = nn.functional.pad(confidence, (0, self.size - n), value=1.0)
        out: Tensor = self.down(self.up(whole).relu())
        return out[..., :n]

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file."""
        from safetensors.torch import save_file

        save_file({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}, path)

    @classmethod
    def of(cls, source: Any) -> Filter:
        """A filter, or the one in a file. Raises InputError if there is none in it."""
        if isinstance(source, Filter):
            return source
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            weights = load_file(str(source))
        except (OSError, SafetensorError) as error:
            raise InputError(f"no filter can be read from {str(source)!r}: {' '.join(str(error).split())}") from error
        if sorted(weights) != sorted(NAMES):
            raise InputError(f"{str(source)!r} holds {', '.join(weights) or 'nothing'}, not the weights of a filter")
        hidden, size = weights["up.weight"].shape
        net = cls(size, hidden)
        net.load_state_dict(weights)
        return net.eval().requires_grad_(False)

    def __repr__(self) -> str:
        return f"<Filter of {self.size}>"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class FilterFile:
    """The check of an option: a path, or a loaded filter."""

    def fits(self, value: Any) -> bool:
        return isinstance(value, Filter) or (isinstance(value, str) and bool(value.strip()))

    def __str__(self) -> str:
        return "the path of a .safetensors file, or a foveate.diffusion.filter.Filter"

    def bad(self) -> list[Any]:
        return [3, "", torch.nn.Linear(1, 1)]
