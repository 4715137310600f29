"""What an entry of the store was made from, in full: two different inputs never share a key."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch

from .. import __version__
from ..errors import InputError, MediaError, PlanError
from ..load import Loaded
from ..prompt import QwenBuilder
from ..spec import Plan
from ..stream.split import asks, split
from .coding import BITS

#: Raised when what is stored changes its meaning.
FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """Everything besides the file that decides what is stored for it.

    Attributes:
        model: hash of the weights, the config and the preprocessing; see :func:`model_hash`.
        plan: the whole plan as text, as it was asked for.
        first: every method that runs while encoding, with all its options, also those at their default.
        fps: frames seen of each second; clip: frames encoded together.
        question: what methods that decide by it were told, or None where none of them is told one.
        version, format: of foveate and of the store.
        bits: of each number of a token, or None: tokens are kept as they are.
    """

    model: str
    plan: str
    first: tuple[tuple[str, str], ...]
    fps: float
    clip: int
    question: str | None
    version: str = __version__
    format: int = FORMAT
    bits: int | None = None

    @classmethod
    def of(
        cls, model: str, plan: Plan, fps: float, clip: int, question: str | None = None, bits: int | None = None
    ) -> Recipe:
        """The recipe of a plan.

        Raises:
            PlanError: a question is given and nothing decides by it, or the plan cannot run without the frames.
            InputError: tokens cannot be kept at so many bits.
        """
        if bits is not None and bits not in BITS:
            raise InputError(
                f"'bits' must be one of {', '.join(map(str, BITS))}, or None for tokens as they are. Got {bits!r}."
            )
        if question is not None and not any(asks(m) for m in plan.at("inputs")):
            raise PlanError(f"no method of {str(plan)!r} decides by the question; index without one, for all questions")
        first, _ = split(plan, known=question is not None)
        return cls(model, str(plan), tuple((m.name, _options(m)) for m in first), fps, clip, question, bits=bits)

    @property
    def _data(self) -> dict[str, Any]:
        """All fields; bits only where there are some, so that earlier stores keep their keys."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "bits" or v is not None}

    @property
    def text(self) -> str:
        """Canonical JSON."""
        return json.dumps(self._data, sort_keys=True, ensure_ascii=True, separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> Recipe:
        """From :attr:`text`."""
        data = json.loads(text)
        return cls(**{**data, "first": tuple((str(n), str(o)) for n, o in data["first"])})

    @property
    def id(self) -> str:
        """Hash of what decides what is stored: all but how the rest of the plan is written."""
        data = {k: v for k, v in self._data.items() if k != "plan"}
        return _sha(json.dumps(data, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode())

    def key(self, media: str) -> str:
        """The key of a file with this content hash: 64 hex digits."""
        return _sha(f"{self.id}:{media}".encode())


def _options(m: Any) -> str:
    """Every option of a method with its value; 1 and 1.0 differ."""
    kind = type(m)
    values = {f.name: repr(getattr(m, f.name)) for f in dataclasses.fields(m)}
    return json.dumps([kind.__module__, kind.__qualname__, values], sort_keys=True)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def media_hash(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's content, read in pieces.

    Raises:
        MediaError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror or error})") from error


def model_hash(loaded: Loaded) -> str:
    """SHA-256 of all weights and buffers (bit by bit, in their dtype), the config, and how frames become pixels."""
    made = hashlib.sha256()
    config = {
        k: v for k, v in loaded.model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")
    }
    made.update(json.dumps(config, sort_keys=True, default=str).encode())
    made.update(json.dumps(_pixels(loaded.builder), sort_keys=True, default=str).encode())
    vocabulary = getattr(loaded.builder.tokenizer, "chat_template", None)
    made.update(str(vocabulary).encode())
    for name, value in sorted(loaded.model.state_dict().items()):
        made.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        made.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
    return made.hexdigest()


def _pixels(builder: Any) -> Any:
    if isinstance(builder, QwenBuilder):
        return [builder.image_processor.to_dict(), dataclasses.asdict(builder.rule)]
    parts = [getattr(builder.processor, f"{n}_processor", None) for n in ("image", "video")]
    return [p.to_dict() if hasattr(p, "to_dict") else vars(p) for p in parts if p is not None]
