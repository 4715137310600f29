"""A cache on disk: saved whole or not at all, and read only if it is what was saved.

A folder holds a file of tensors for each layer and ``cache.json``, which names them with their hashes and describes
what the tensors are. Files carry their hash in their names and ``cache.json`` is replaced last, in one step: whenever a
save is cut short, the folder holds the cache that was saved before.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ..errors import CacheFileError, UnsupportedCallError
from . import files
from .held import HeldLayer
from .state import Reader, Writer

#: The version of the format; a folder of any other is refused.
VERSION = 1
FORMAT = "foveate-cache"
INDEX = "cache.json"


def save_cache(cache: Any, folder: str | Path) -> Path:
    """Write a cache into a folder, in place of the one that may be there. The cache stays as it is.

    Args:
        cache: a transformers cache that grows, filled with or without a plan: evicted, packed or tiered alike.
        folder: made if it is not there. One process at a time may write to it.

    Returns:
        The folder.

    Raises:
        UnsupportedCallError: some layer is of a kind that cannot be saved.
        CacheFileError: the disk refuses; what was saved before is still there.
    """
    from .. import __version__

    layers = [_ours(layer) for layer in _layers(cache)]
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheFileError(f"{str(folder)!r} cannot be made: {error.strerror or error}") from error
    writer, listed = Writer(), []
    for i, layer in enumerate(layers):
        tree = writer.write(layer)
        data = files.encoded(writer.take())
        sha = hashlib.sha256(data).hexdigest()
        name = f"layer-{i:03}-{sha[:16]}.safetensors"
        files.write(folder / name, data)
        listed.append({"file": name, "sha256": sha, "bytes": len(data), "tree": tree})
    index = {"format": FORMAT, "version": VERSION, "written_by": __version__, "layers": listed}
    index["sha256"] = _sha(index)
    files.write(folder / INDEX, json.dumps(index).encode())
    _sweep(folder, {one["file"] for one in listed})
    return folder


def load_cache(folder: str | Path, device: str | torch.device = "cpu") -> Any:
    """Read a cache that :func:`save_cache` wrote, to go on from, with the same model.

    Args:
        folder: where it is.
        device: where its tensors go.

    Returns:
        A ``DynamicCache``. A cache from which entries were dropped is used inside ``foveate.apply``, as it was before.

    Raises:
        CacheFileError: it is missing, damaged, cut short, or of another version. Nothing of it is used then.
    """
    from transformers.cache_utils import DynamicCache

    folder = Path(folder)
    reader, layers = Reader(torch.device(device)), []
    for one in _index(folder):
        path = folder / one["file"]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CacheFileError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
        if len(data) != one["bytes"] or hashlib.sha256(data).hexdigest() != one["sha256"]:
            raise CacheFileError(
                f"{str(path)!r} is not the file that was saved ({len(data):,} of {one['bytes']:,} bytes, or others); "
                "fill the cache again"
            )
        reader.tensors = files.decoded(data, path)
        try:
            layers.append(reader.read(one["tree"]))
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if isinstance(error, CacheFileError):
                raise
            raise CacheFileError(f"{str(folder / INDEX)!r} does not describe a cache: {error}") from error
    cache = DynamicCache()
    cache.layer_class_to_replicate = None
    cache.layers[:] = layers
    return cache


def _layers(cache: Any) -> list[Any]:
    layers = getattr(cache, "layers", None)
    if not isinstance(layers, list):
        raise UnsupportedCallError(
            f"{type(cache).__name__} is no cache that can be saved; use the default dynamic cache"
        )
    return layers


def _ours(layer: Any) -> HeldLayer:
    """A layer as one of ours; a plain one lends its tensors."""
    if isinstance(layer, HeldLayer):
        return layer
    if type(layer).__name__ in ("DynamicLayer", "DynamicSlidingWindowLayer"):
        return HeldLayer.adopt(layer)
    raise UnsupportedCallError(f"{type(layer).__name__} cannot be saved; use the default dynamic cache")


def _index(folder: Path) -> list[dict[str, Any]]:
    """The layers that a folder lists, once its index has proved to be whole."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CacheFileError(f"{str(folder)!r} holds no cache: there is no {INDEX}") from error
    except OSError as error:
        raise CacheFileError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CacheFileError(f"{str(path)!r} is damaged: {error}") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise CacheFileError(f"{str(path)!r} describes no cache")
    if index.get("version") != VERSION:
        raise CacheFileError(
            f"{str(folder)!r} holds a cache of version {index.get('version')!r}, written by foveate "
            f"{index.get('written_by')}, and this one reads version {VERSION}; fill the cache again"
        )
    sha = index.pop("sha256", None)
    if sha != _sha(index):
        raise CacheFileError(f"{str(path)!r} is damaged: its hash is another one; fill the cache again")
    listed: list[dict[str, Any]] = index["layers"]
    return listed


def _sha(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _sweep(folder: Path, used: set[str]) -> None:
    """Remove files of earlier saves, whole or cut short. What cannot be removed does no harm."""
    for path in [*folder.glob("layer-*.safetensors"), *folder.glob(".layer-*.part"), *folder.glob(f".{INDEX}.*.part")]:
        if path.name not in used:
            try:
                path.unlink(missing_ok=True)
            except OSError:
                continue
