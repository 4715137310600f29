"""Tensors in files that are whole or not there.

Files are safetensors, so nothing in them is ever run. What is read is checked against a hash first.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..atomic import replacing
from ..errors import CacheFileError


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name]
        found.update(f"{name}|{t.dtype}|{tuple(t.shape)}|".encode())
        found.update(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def write(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, whole and durable, or raise and leave what was there.

    Raises:
        CacheFileError: it cannot be written (no space, no permission).
    """
    try:
        with replacing(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise CacheFileError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def encoded(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the bytes of a safetensors file; each one alone, whatever memory it shares."""
    from safetensors.torch import save

    data: bytes = save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
    return data


def decoded(data: bytes, path: Path) -> dict[str, Tensor]:
    """The reverse; ``path`` is where the bytes came from.

    Raises:
        CacheFileError: they are no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found: dict[str, Tensor] = load(data)
        return found
    except (SafetensorError, ValueError, KeyError) as error:
        raise CacheFileError(f"{str(path)!r} is damaged: {' '.join(str(error).split())}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> int:
    """Put tensors at ``path`` as :func:`write` does; returns the size of the file in bytes."""
    data = encoded(tensors)
    write(path, data)
    return len(data)


def read_tensors(path: Path, names: tuple[str, ...] | None = None) -> dict[str, Tensor]:
    """Tensors of a file that is mapped into memory; all of them, or those named. They are not checked yet.

    Raises:
        CacheFileError: it is missing, cut short or no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as held:
            return {name: held.get_tensor(name) for name in (held.keys() if names is None else names)}
    except FileNotFoundError as error:
        raise CacheFileError(f"{str(path)!r} is missing") from error
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CacheFileError(f"{str(path)!r} is damaged: {' '.join(str(error).split())}") from error


def ahead(path: Path) -> None:
    """Ask the operating system to read a file soon, where it can be asked; nothing waits for it."""
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(handle)
