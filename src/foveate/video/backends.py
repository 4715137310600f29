"""Who decodes: PyAV, or another library behind the same few attributes."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .limits import Limits

#: Third parties add backends with this entry-point group: ``name = "package.module:make"``, make(path, limits).
GROUP = "foveate.video"
OWN = {"pyav": "foveate.video.coded:Coded", "torchcodec": "foveate.video.torchcodec:TorchCodec"}


class Source(Protocol):
    """One opened file, as :class:`foveate.video.coded.Coded` describes it."""

    times: NDArray[np.float64]
    duration: float
    readable: float
    start: float

    @property
    def keys(self) -> Sequence[int]: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def several(self, numbers: Sequence[int], workers: int, room: int) -> Iterator[tuple[int, Any]]: ...

    def close(self) -> None: ...


def backend(name: str) -> Callable[[Path, Limits], Source]:
    """What opens files under this name.

    Raises:
        InputError: nobody answers to the name, or what does cannot be imported.
    """
    others = {e.name: e for e in entry_points(group=GROUP)}
    try:
        if name in OWN:
            module, attribute = OWN[name].split(":")
            made: Callable[[Path, Limits], Source] = getattr(importlib.import_module(module), attribute)
            return made
        if name in others:
            loaded: Callable[[Path, Limits], Source] = others[name].load()
            return loaded
    except ImportError as error:
        raise InputError(f"the video backend {name!r} cannot be used: {error}") from error
    known = [*OWN, *others]
    near = difflib.get_close_matches(name, known, 1)
    raise InputError(f"no video backend is called {name!r}; {f'did you mean {near[0]!r}?' if near else known}")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
