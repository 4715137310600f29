"""From messages with images and videos to what a model's forward takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..errors import InputError
from .base import Builder, Prompt, Visual, render
from .chat import Awaited, Conversation, Item, Messages, Progress, read
from .hf import ProcessorBuilder, TextBuilder, image_processor, load_processor
from .pixels import PatchRule, patchify, video_patches
from .qwen import FAMILIES, QwenBuilder, rule_of

__all__ = [
    "Awaited",
    "Builder",
    "Conversation",
    "Item",
    "Messages",
    "PatchRule",
    "Progress",
    "Prompt",
    "QwenBuilder",
    "Visual",
    "build",
    "builder_for",
    "patchify",
    "read",
    "render",
    "video_patches",
]


def build(
    builder: Builder, messages: Messages | Sequence[Messages], frames: int = 16, progress: Progress | None = None
) -> Prompt:
    """One conversation, or several as a batch -> :class:`Prompt`.

    messages: transformers' chat format; contents are text or lists of {"type": "text" | "image" | "video", ...}, where
        an image is a path or PIL image and a video is a path or a list of frames (PIL images, or objects with ``image``
        and ``time``), with "times" in seconds if the frames are bare.
    frames: how many frames are sampled from videos given as paths.

    Raises:
        InputError: an empty question, a malformed message, or a batch that this family cannot mix.
        MediaError: a file that cannot be read, or a picture too small.
        UnsupportedModelError: an image or video for a text-only model.
    """
    if not messages:
        raise InputError("there is no message")
    one = isinstance(messages[0], Mapping)
    rows = [cast(Messages, messages)] if one else cast("Sequence[Messages]", messages)
    return builder([read(m, frames, progress) for m in rows])


def builder_for(folder: Path, config: Any, vision: bool) -> Builder:
    """The prompt builder of a model folder. config: its transformers config; vision: whether it can look at images.

    Raises:
        UnsupportedModelError: when the folder lacks the tokenizer or the processor.
    """
    from transformers import AutoTokenizer

    from ..errors import UnsupportedModelError

    family = str(config.model_type)
    if vision and family not in FAMILIES:
        tokens = {kind: _ids(config, kind) for kind in ("image", "video")}
        return ProcessorBuilder(load_processor(folder, config), family, tokens)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if not vision:
            return TextBuilder(tokenizer, family)
        images = image_processor(folder)
    except (OSError, ValueError, ImportError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:300]
        raise UnsupportedModelError(f"no usable tokenizer or image processor in {str(folder)!r}: {why}") from error
    return QwenBuilder(tokenizer, images, family, rule_of(folder, images, family))


def _ids(config: Any, kind: str) -> tuple[int, ...]:
    found = {getattr(config, f"{kind}_token_{end}", None) for end in ("id", "index")}
    return tuple(sorted(t for t in found if isinstance(t, int)))
