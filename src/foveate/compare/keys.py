"""What an answer depends on, as one hash: the same question to the same model under the same plan is asked once."""

from __future__ import annotations

import hashlib
import inspect
import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL.Image import Image

from .. import __version__
from ..archive.recipe import media_hash, model_hash
from ..bench.desk import marked
from ..bench.exam import sources
from ..errors import InputError
from ..load import Loaded
from ..spec import Plan


def digest(messages: Any) -> str:
    """SHA-256 of a conversation: words, roles, and the bytes of its media, wherever their files lie.

    messages: in transformers' chat format; media are paths or PIL pictures, or lists of pictures.

    Raises:
        MediaError: a file that cannot be read.
    """
    made = hashlib.sha256()

    def put(kind: str, value: bytes) -> None:
        made.update(f"{kind}:{len(value)}:".encode() + value)

    def walk(value: Any, key: str = "") -> None:
        if isinstance(value, Image):
            put("picture", f"{value.mode}{value.size}".encode())
            put("pixels", value.tobytes())
        elif isinstance(value, dict):
            for name in sorted(set(value) - {"limits"}):  # limits refuse media, they do not change them
                put("name", str(name).encode())
                walk(value[name], str(name))
        elif isinstance(value, list | tuple):
            put("list", str(len(value)).encode())
            for one in value:
                walk(one, key)
        elif key in ("image", "video") and isinstance(value, str | PathLike):
            put("file", media_hash(value).encode())
        elif value is None or isinstance(value, str | int | float | bool):
            put(type(value).__name__, repr(value).encode())
        else:
            raise InputError(f"a message holds a {type(value).__name__}, which cannot be told from others")

    walk(messages)
    return made.hexdigest()


class Keys:
    """Keys of answers.

    Args:
        loaded: the model; its weights, config and dtype count.
        device: the kind of device that answers, "cpu" or "cuda".
        more: what else all answers depend on: frames, the seed.
    """

    def __init__(self, loaded: Loaded, device: str, more: Any) -> None:
        kind = [str(loaded.model.dtype), device]
        self.model = model_hash(loaded)
        self.marks = marked()  # of the source, as a checkout keeps its version while it changes
        self.marks[""] += sources(
            "ask.py", "choose.py", "prompting.py", "compare/asker.py", "generation", "decode", "media"
        )
        versions = [__version__, torch.__version__, transformers.__version__, self.marks[""]]
        self.about = [self.model, kind, versions, more]

    def key(self, plan: Plan, asked: str, most: int) -> str:
        """The key of an answer, 40 hex digits. asked: :func:`digest` of the conversation. most: new tokens."""
        own = [self.marks.get(m.name) or _mark(type(m)) for m in plan]
        parts = [*self.about, str(plan), own, asked, most]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def _mark(cls: type[Any]) -> str:
    """Of a method that does not come with foveate: its file."""
    try:
        return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()[:10]
    except (OSError, TypeError):
        return cls.__module__
