"""Load a Hugging Face model together with what turns messages into its inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import builtin, memory
from .errors import InputError, OutOfMemoryError, UnsupportedModelError
from .prompt import Builder, Messages, Progress, Prompt, build, builder_for

#: What is fetched of a hub repository: configs, tokenizer files and safetensors; never pickles, never code.
_FETCH = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
_SKIP = ("original/*", "consolidated*", "onnx/*", "openvino/*")


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model and its prompt builder.

    Attributes:
        model: the transformers model, in eval mode, as it is.
        builder: makes its prompts; ``builder.tokenizer`` is its tokenizer.
        name: what it was loaded as.
        family: the config's model_type.
        trained: False when the weights are random: then its words mean nothing.
        vision: whether it can look at images.
    """

    model: Any
    builder: Builder = field(repr=False)
    name: str
    family: str
    trained: bool = True
    vision: bool = True

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        where: torch.device = next(self.model.parameters()).device
        return where

    @property
    def note(self) -> str:
        """One line for people when the weights are random, else empty."""
        return "" if self.trained else builtin.untrained(self.name)

    def prompt(
        self, messages: Messages | Sequence[Messages], frames: int = 16, progress: Progress | None = None
    ) -> Prompt:
        """Messages in transformers' chat format -> inputs on the model's device; see :func:`foveate.prompt.build`."""
        return build(self.builder, messages, frames, progress).to(self.device, self.model.dtype)

    def decode(self, ids: torch.Tensor) -> list[str]:
        """ids (B, n) -> B texts without special tokens."""
        return [str(t) for t in self.builder.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.model.parameters()) / 1e6
        return f"Loaded({self.name!r}, {self.family}, {size:,.1f} M parameters{'' if self.trained else ', untrained'})"


def load(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Loaded:
    """Load a built-in model, a local Hugging Face folder or a hub id. Only safetensors, no remote code.

    Args:
        name_or_path: "tiny" (untrained, no download), "lab/image", "lab/video", a folder, or an id such as
            "Qwen/Qwen2.5-VL-3B-Instruct".
        dtype: of the weights, as torch.dtype or its name; None takes what the folder says.
        device: where to put it; None takes a GPU if there is one.

    Raises:
        InputError: no such folder or repository, or an unknown dtype or device.
        UnsupportedModelError: no safetensors weights, or a family that transformers cannot load without remote code.
        OutOfMemoryError: the weights do not fit.
    """
    name, kind, place = str(name_or_path), _dtype(dtype), _device(device)
    if name in builtin.BUILTIN:
        model, builder = builtin.BUILTIN[name]()
        trained = name not in builtin.UNTRAINED
        model = model.to(place, kind or torch.float32)
        return Loaded(model, builder, name, str(model.config.model_type), trained)
    folder = builtin.lab(name) if name in builtin.LAB else _folder(name_or_path)
    config, auto, vision = _config(folder)
    _fits(folder, kind, config, place)
    builder = builder_for(folder, config, vision)
    with memory.explained(f"the weights of {name}", "use a smaller model, dtype='bfloat16', or a GPU with more memory"):
        try:
            model = auto.from_pretrained(
                folder, config=config, dtype=kind or "auto", use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise UnsupportedModelError(f"cannot load {name!r}: {_line(error)}") from error
        except Exception as error:  # safetensors raises its own error type for a damaged file
            if memory.is_memory(error):
                raise
            raise UnsupportedModelError(f"the weights of {name!r} cannot be read: {_line(error)}") from error
        model = model.to(place).eval()
    return Loaded(model, builder, name, str(config.model_type), True, vision)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"'dtype' must be float32, bfloat16 or float16. Got {dtype!r}.")
    return found


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"no device {str(device)!r} here: {_line(error)}") from error
    return found


def _folder(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_dir():
        return path
    name = str(name_or_path)
    if isinstance(name_or_path, Path) or name.count("/") != 1 or name.startswith((".", "/", "~")) or path.exists():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise InputError(f"{name!r} {what}; a model is a folder, a hub id 'owner/name', or {_builtins()}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FETCH), ignore_patterns=list(_SKIP)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, RuntimeError) as error:
        raise InputError(
            f"no folder {name!r}, and the hub gives no model of that id ({_line(error, 120)}); built in: {_builtins()}"
        ) from error


def _builtins() -> str:
    return ", ".join(map(repr, builtin.BUILTIN))


def _config(folder: Path) -> tuple[Any, Any, bool]:
    """The folder's config, the Auto class that loads it, and whether that is a model with a vision part."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    if not (folder / "config.json").is_file():
        raise UnsupportedModelError(f"{str(folder)!r} has no config.json, so it is not a Hugging Face model folder")
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnsupportedModelError(f"config.json in {str(folder)!r} is not JSON: {error}") from error
    if not any(folder.glob("*.safetensors")):
        raise UnsupportedModelError(
            f"{str(folder)!r} has no .safetensors weights; foveate does not open pickled weights, so convert them first"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a config class raises whatever its fields do
        raise UnsupportedModelError(
            f"transformers cannot read model type {data.get('model_type')!r} of {str(folder)!r} without remote code"
        ) from error
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return config, AutoModelForImageTextToText, True
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return config, AutoModelForCausalLM, False
    raise UnsupportedModelError(f"a {config.model_type} model does not write text, so there is nothing to ask it")


def _fits(folder: Path, dtype: torch.dtype | None, config: Any, device: torch.device) -> None:
    """Refuse weights that main memory cannot hold, before the system stops the process for it."""
    free = memory.available()
    if free is None or device.type not in ("cpu", "cuda"):
        return
    stored = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    own = getattr(config, "dtype", None)
    scale = dtype.itemsize / own.itemsize if dtype is not None and isinstance(own, torch.dtype) else 1.0
    if (needed := stored * scale) > free:
        raise OutOfMemoryError(
            f"the weights of {str(folder)!r} take {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB of memory are "
            "free; use a smaller model or dtype='bfloat16'"
        )


def _line(error: BaseException, most: int = 300) -> str:
    return " ".join(str(error).split())[:most] or type(error).__name__
