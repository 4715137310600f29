"""Trained weights as an option of a method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import PlanError


class Weights:
    """A safetensors file, or tensors by name."""

    def fits(self, value: Any) -> bool:
        if isinstance(value, str):
            return bool(value.strip())
        return isinstance(value, Mapping) and all(isinstance(t, Tensor) for t in value.values())

    def __str__(self) -> str:
        return "the path of a safetensors file, or tensors by name"

    def bad(self) -> list[Any]:
        return [3, "", True]

    @staticmethod
    def load(value: Any) -> dict[str, Tensor]:
        """The tensors, dots in their names as underscores. Raises PlanError where the file cannot be read."""
        if not isinstance(value, str):
            return {name.replace(".", "_"): t for name, t in value.items()}
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return {name.replace(".", "_"): t for name, t in load_file(Path(value)).items()}
        except (OSError, SafetensorError) as error:
            raise PlanError(f"the weights at {value!r} cannot be read: {' '.join(str(error).split())}") from error
