"""Chunks of entries that may lie in a file or in few bits, and the files of one process."""

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
from .packed import per_channel, per_token

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


@dataclass(frozen=True)
class Form:
    """What a chunk is like when its entries are whole, and in how many bits they are away from the device.

    Keys are coded per channel and values per token, as KIVI found best.

    Attributes:
        bits: 8, 4, 3 or 2.
        keys, values: shapes (g, t, d). dtype: of both.
    """

    bits: int
    keys: torch.Size
    values: torch.Size
    dtype: torch.dtype

    def encode(self, keys: Tensor, values: Tensor) -> list[Tensor]:
        """Keys and values -> codes, scale and lowest number of each, on the host."""
        made = [*per_channel(self.bits, 0).encode(keys[None]), *per_token(self.bits, 0).encode(values[None])]
        return [t.cpu().clone() for t in made]

    def decode(self, codes: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values again, as near as the bits allow."""
        here, one = [t.to(device) for t in codes], torch.Size((1,))
        keys = per_channel(self.bits, 0).decode((here[0], here[1], here[2]), one + self.keys)
        values = per_token(self.bits, 0).decode((here[3], here[4], here[5]), one + self.values)
        return keys[0].to(self.dtype), values[0].to(self.dtype)


@dataclass
class Chunk:
    """Entries of one row: keys and values (g, t, d) where they are in memory, and where they lie in a file.

    Attributes:
        tier: DEVICE, HOST or DISK.
        name: of its tensors in the file, and ``sha`` their hash.
        heat: how often it was chosen, later choices counting more.
        form: how they are coded away from the device, or None: they are not.
        codes: keys and values as ``form`` has them, in place of these on the host.
    """

    keys: Tensor | None
    values: Tensor | None
    heat: float = 0.0
    tier: int = DEVICE
    spill: Spill | None = None
    name: str = ""
    sha: str = ""
    form: Form | None = None
    codes: list[Tensor] | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """What is in memory."""
        return [t for t in (self.keys, self.values, *(self.codes or ())) if t is not None]

    def read(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values on ``device``, from wherever they are.

        Raises:
            CacheFileError: its file is missing or does not hold what was written.
        """
        if self.keys is not None and self.values is not None:
            return self.keys.to(device), self.values.to(device)
        away = self.away()
        if self.form is not None:
            return self.form.decode(away, device)
        keys, values = (t.clone().to(device) for t in away)
        return keys, values

    def away(self) -> list[Tensor]:
        """What there is of it away from the device, or would be: keys and values, or their codes.

        Raises:
            CacheFileError: as :meth:`read`.
        """
        if self.codes is not None:
            return self.codes
        if self.keys is not None and self.values is not None:
            return [self.keys, self.values] if self.form is None else self.form.encode(self.keys, self.values)
        assert self.spill is not None, "a chunk without a place"
        names = tuple(f"{self.name}.{i}" for i in range(2 if self.form is None else 6))
        held = files.read_tensors(self.spill.path, names)
        if files.digest(held) != self.sha:
            raise CacheFileError(
                f"{str(self.spill.path)!r} no longer holds the cache entries that were written there; ask again, and "
                "use a folder that nothing else writes to"
            )
        return [held[name] for name in names]

    def lift(self, keys: Tensor, values: Tensor, tier: int) -> None:
        """Move it up: it was just read as keys and values on the device."""
        if tier == HOST and self.form is not None:
            self.codes = [t.clone() for t in self.away()]
        else:
            self.keys, self.values = (keys, values) if tier == DEVICE else (keys.cpu(), values.cpu())
            self.codes = None
        self.tier = tier

    def lower(self) -> None:
        """Move it from the device to the host."""
        if self.form is None:
            self.keys, self.values = self.read(torch.device("cpu"))
        else:
            self.codes, self.keys, self.values = self.away(), None, None
        self.tier = HOST

    def leave(self) -> None:
        """Free its memory; it is in a file."""
        self.keys = self.values = self.codes = None
        self.tier = DISK
