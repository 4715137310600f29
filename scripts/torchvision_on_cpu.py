"""Let torchvision's wheel for CUDA be imported beside torch for CPUs; put on the path by ``vllm_env.sh``.

Its compiled part cannot be loaded there, and its Python part, all that image processors use, asks for two operators
when it is imported. They are declared, without code, just before that.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_SCHEMAS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",)


class Declare(importlib.abc.MetaPathFinder):
    """Finds nothing; it only notices that torchvision is looked for."""

    library: object = None

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Declare the operators the first time that torchvision is imported."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            from torch.library import Library

            library = Library("torchvision", "FRAGMENT")
            for schema in (*_SCHEMAS, *(s.replace("nms", "qnms", 1) for s in _SCHEMAS)):
                library.define(schema)
            Declare.library = library  # what is declared goes with the object
        return None


sys.meta_path.insert(0, Declare())
