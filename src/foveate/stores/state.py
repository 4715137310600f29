"""Cache layers as plain data and tensors, and back, without running anything that the data names.

Objects of foveate's own classes are written as their attributes, or as what their ``saved()`` returns, to be made again
by ``revive``. Read back, a class is looked up in the modules listed here and nowhere else, and its ``__init__`` is not
run. What several layers share is written once.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ..errors import CacheFileError, UnsupportedCallError

#: Modules whose classes may stand in a file: these packages, and these modules.
PACKAGES = ("foveate.stores.", "foveate.cache.", "foveate.parts.")
MODULES = ("foveate.sites.entries",)


class Writer:
    """Turns layers into trees of JSON values and numbered tensors; one writer for all layers of a cache."""

    def __init__(self) -> None:
        self.known: dict[int, int] = {}
        self.kept: list[Any] = []  # what was written stays alive, so that ids stay its own
        self.tensors: dict[str, Tensor] = {}
        self.count = 0
        self.passing = False  # in what ``saved()`` returned: made for the file alone, and not kept

    def take(self) -> dict[str, Tensor]:
        """The tensors of what was written since the last call."""
        taken, self.tensors = self.tensors, {}
        return taken

    def write(self, x: Any) -> Any:
        """A tree for x.

        Raises:
            UnsupportedCallError: something in it is no data.
        """
        if x is None or isinstance(x, (bool, int, float, str)):
            return x
        if id(x) in self.known and not self.passing:
            return {"again": self.known[id(x)]}
        if isinstance(x, torch.dtype):
            return {"dtype": str(x).removeprefix("torch.")}
        if isinstance(x, torch.device):
            return {"device": 0}
        if isinstance(x, Tensor):
            number = self._next() if self.passing else self._number(x)
            # in the order its numbers lie in memory: products of them then round as they did
            order = sorted(range(x.ndim), key=lambda i: -x.stride()[i])
            self.tensors[str(number)] = x.permute(order)
            return {"tensor": number, "order": order}
        if isinstance(x, dict):
            return {"dict": [[self.write(k), self.write(v)] for k, v in x.items()]}
        if type(x) in (tuple, list, torch.Size):
            return {"list" if type(x) is list else "tuple": [self.write(v) for v in x]}
        return self._object(x)

    def _number(self, x: Any) -> int:
        self.kept.append(x)
        self.known[id(x)] = number = self._next()
        return number

    def _next(self) -> int:
        self.count += 1
        return self.count - 1

    def _object(self, x: Any) -> Any:
        kind = type(x)
        place = f"{kind.__module__}:{kind.__qualname__}"
        if not allowed(kind.__module__) or callable(x):
            raise UnsupportedCallError(f"a cache with {kind.__qualname__} ({kind.__module__}) in it cannot be saved")
        number = self._number(x)
        if isinstance(x, tuple):
            return {"class": place, "number": number, "fields": [self.write(v) for v in x]}
        if hasattr(x, "saved"):
            before, self.passing = self.passing, True
            tree = self.write(x.saved())
            self.passing = before
            return {"class": place, "number": number, "saved": tree}
        return {"class": place, "number": number, "state": self.write(dict(vars(x)))}


class Reader:
    """The reverse of :class:`Writer`, for the same layers in the same order."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known: dict[int, Any] = {}
        self.tensors: dict[str, Tensor] = {}

    def read(self, tree: Any) -> Any:
        """What a tree stands for; its tensors are in ``tensors``.

        Raises:
            CacheFileError: no writer made this tree.
        """
        if not isinstance(tree, dict):
            return tree
        match tree:
            case {"again": int(number)}:
                return self._of(self.known, number)
            case {"dtype": str(name)} if isinstance(found := getattr(torch, name, None), torch.dtype):
                return found
            case {"device": 0}:
                return self.device
            case {"tensor": int(number), "order": list(order)}:
                data = self._of(self.tensors, str(number)).to(self.device)
                self.known[number] = made = data.permute([order.index(i) for i in range(data.ndim)])
                return made
            case {"dict": list(pairs)}:
                return {self.read(k): self.read(v) for k, v in pairs}
            case {"list": list(items)}:
                return [self.read(v) for v in items]
            case {"tuple": list(items)}:
                return tuple(self.read(v) for v in items)
            case {"class": str(place), "number": int(number)}:
                return self._object(tree, place, number)
        raise CacheFileError(f"the description of a cache holds {str(tree)[:60]!r}, which means nothing")

    @staticmethod
    def _of(table: dict[Any, Any], key: Any) -> Any:
        if key not in table:
            raise CacheFileError(f"the description of a cache names part {key}, which is not there")
        return table[key]

    def _object(self, tree: dict[str, Any], place: str, number: int) -> Any:
        cls = _class(place)
        if "fields" in tree:
            self.known[number] = made = cls(*(self.read(v) for v in tree["fields"]))
            return made
        if "saved" in tree:
            self.known[number] = made = cls.revive(self.read(tree["saved"]))
            return made
        made = cls.__new__(cls)
        self.known[number] = made
        vars(made).update(self.read(tree.get("state")))
        return made


def allowed(module: str) -> bool:
    """Whether classes of a module may stand in a file."""
    return module in MODULES or module.startswith(PACKAGES)


def _class(place: str) -> Any:
    module, _, name = place.partition(":")
    if not allowed(module):
        raise CacheFileError(f"the description of a cache names {place!r}, which is no part of one")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CacheFileError(f"this foveate has no {place!r}; read the cache with the one that wrote it") from error
    if not isinstance(found, type) or found.__module__ != module:
        raise CacheFileError(f"the description of a cache names {place!r}, which is no part of one")
    return found
