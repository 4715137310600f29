"""Chunks of entries that may lie in a file, and the files of one process."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CacheFileError
from . import files

#: Tiers, from the nearest to the farthest.
DEVICE, HOST, DISK = range(3)


class Scratch:
    """A folder of its own for files of one process; it goes when nothing uses it any longer."""

    def __init__(self, parent: str = "") -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix="foveate-", dir=parent or None))
        except OSError as error:
            raise CacheFileError(f"no folder can be made in {parent!r}: {error.strerror or error}") from error
        self.count = 0
        weakref.finalize(self, shutil.rmtree, self.path, True)

    def __deepcopy__(self, memo: Any) -> Scratch:
        return self

    def next(self) -> Path:
        """A path that was not given out before."""
        self.count += 1
        return self.path / f"{self.count}.safetensors"


class Spill:
    """A file with the entries of some chunks; it goes with the last of them."""

    def __init__(self, scratch: Scratch, tensors: dict[str, Tensor]) -> None:
        self.scratch, self.path = scratch, scratch.next()
        self.nbytes = files.write_tensors(self.path, tensors)
        weakref.finalize(self, self.path.unlink, True)

    def __deepcopy__(self, memo: Any) -> Spill:
        return self  # never changed once written


@dataclass
class Chunk:
    """Entries of one row: keys and values (g, t, d) where they are in memory, and where they lie in a file.

    Attributes:
        tier: DEVICE, HOST or DISK.
        name: of its tensors in the file, and ``sha`` their hash.
        heat: how often it was chosen, later choices counting more.
    """

    keys: Tensor | None
    values: Tensor | None
    heat: float = 0.0
    tier: int = DEVICE
    spill: Spill | None = None
    name: str = ""
    sha: str = ""

    def read(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values on ``device``, from wherever they are.

        Raises:
            CacheFileError: its file is missing or does not hold what was written.
        """
        if self.keys is not None and self.values is not None:
            return self.keys.to(device), self.values.to(device)
        assert self.spill is not None, "a chunk without a place"
        names = (f"{self.name}.k", f"{self.name}.v")
        held = files.read_tensors(self.spill.path, names)
        if files.digest(held) != self.sha:
            raise CacheFileError(
                f"{str(self.spill.path)!r} no longer holds the cache entries that were written there; ask again, and "
                "use a folder that nothing else writes to"
            )
        keys, values = (held[name].clone().to(device) for name in names)
        return keys, values
