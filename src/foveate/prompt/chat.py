"""Messages in transformers' chat format, checked, with their images and videos opened."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from ..errors import InputError, MediaError
from ..video import Limits, Video, open_image, open_video
from ..video.limits import DEFAULT

Messages = Sequence[Mapping[str, Any]]
#: Called with the name of a step, how much of it is done, and how much there is (None: unknown).
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Awaited:
    """Frames of an open video that are decoded later, while others are encoded (:mod:`foveate.overlap`).

    Attributes:
        video: the open file. numbers: of the frames that are meant, ascending.
    """

    video: Video
    numbers: tuple[int, ...]

    @property
    def times(self) -> tuple[float, ...]:
        """Seconds of each frame."""
        return tuple(float(self.video.times[n]) for n in self.numbers)


@dataclass(frozen=True)
class Item:
    """One image or video of a conversation.

    Attributes:
        kind: "image" or "video".
        frames: RGB images; one for an image, none yet for a video that is awaited.
        times: seconds of each frame from the start of the video; empty for an image.
        name: how messages call it.
        awaited: where the frames will come from, or None when they are here.
    """

    kind: str
    frames: tuple[Image, ...]
    times: tuple[float, ...] = ()
    name: str = "image"
    awaited: Awaited | None = None

    @property
    def step(self) -> float:
        """Mean seconds between frames (1.0 when there is only one)."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1) if len(self.times) > 1 else 1.0


@dataclass(frozen=True)
class Conversation:
    """Messages ready for a chat template (their media entries hold only a type), and their media in order."""

    messages: list[dict[str, Any]]
    items: list[Item]

    def as_images(self) -> Conversation:
        """Every video as one image for each frame, for models that know only images."""
        messages = []
        videos = iter([i for i in self.items if i.kind == "video"])
        for m in self.messages:
            content: list[dict[str, Any]] = []
            for part in m["content"]:
                many = len(next(videos).frames) if part["type"] == "video" else 1
                content += [{"type": "image"}] * many if part["type"] == "video" else [part]
            messages.append({**m, "content": content})
        items: list[Item] = []
        for i in self.items:
            if i.kind == "image":
                items.append(i)
            else:
                items += [Item("image", (f,), (t,), f"{i.name} at {t:.1f} s") for f, t in zip(i.frames, i.times)]
        return Conversation(messages, items)


def read(messages: Messages, frames: int = 16, progress: Progress | None = None) -> Conversation:
    """Check one conversation and open its media; videos given as paths are sampled at ``frames`` frames.

    An entry may hold "start" and "stop", seconds of the part of a video that is meant, and "limits"
    (:class:`foveate.video.Limits`).

    Raises:
        InputError: no user message, an entry of unknown form, or no question.
        MediaError: a file that cannot be read, or a picture too small.
    """
    if isinstance(messages, Mapping | str) or not messages:
        raise InputError("a conversation is a non-empty list of messages such as {'role': 'user', 'content': '...'}")
    clean: list[dict[str, Any]] = []
    items: list[Item] = []
    for m in messages:
        if not isinstance(m, Mapping) or not isinstance(m.get("role"), str) or "content" not in m:
            raise InputError(f"every message needs 'role' and 'content'. Got {_short(m)}")
        given = m["content"]
        parts = [{"type": "text", "text": given}] if isinstance(given, str) else given
        if not isinstance(parts, Sequence):
            raise InputError(f"'content' must be text or a list of entries. Got {_short(given)}")
        clean.append({**m, "content": [_entry(p, items, frames, progress) for p in parts]})
    if clean[-1]["role"] != "user":
        raise InputError(f"the last message must come from the user; it comes from {clean[-1]['role']!r}")
    if not any(p["type"] == "text" and p["text"].strip() for p in clean[-1]["content"]):
        raise InputError("the question is empty; ask something")
    return Conversation(clean, items)


def _entry(part: Any, items: list[Item], frames: int, progress: Progress | None) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind not in ("image", "video"):
        raise InputError(f"a content entry has type 'text', 'image' or 'video'. Got {_short(part)}")
    value: Any = next((part[key] for key in (kind, "path", "url") if part.get(key) is not None), None)
    if value is None:
        raise InputError(f"an entry of type {kind!r} needs {kind!r}: a path or pictures. Got {_short(part)}")
    limits = part.get("limits") or DEFAULT
    if kind == "image":
        items.append(_image(value, len(items), limits))
    else:
        bounds = part.get("start") or 0.0, part.get("stop")
        items.append(_video(value, part.get("times"), frames, len(items), progress, bounds, limits))
    return {"type": kind}


def _image(value: Any, index: int, limits: Limits) -> Item:
    source: Any = _path(value) if isinstance(value, (str, Path)) else value
    if not isinstance(source, Path | Image | np.ndarray):
        raise InputError(f"an image is a path, a PIL image or an array. Got {_short(value)}")
    return Item(
        "image", (open_image(source, limits),), (), source.name if isinstance(source, Path) else f"image {index}"
    )


def _video(
    value: Any,
    times: Any,
    frames: int,
    index: int,
    progress: Progress | None,
    bounds: tuple[float, float | None],
    limits: Limits,
) -> Item:
    name = f"video {index}"
    if isinstance(value, Awaited):
        return Item("video", (), value.times, value.video.path.name, value)
    if isinstance(value, (str, Path)):
        path = _path(value)
        name = path.name
        if frames < 1:
            raise InputError(f"'frames' must be at least 1. Got {frames}.")
        told = None if progress is None else functools.partial(progress, f"reading {name}")
        with open_video(path, limits=limits) as video:
            value = video.sample(frames, start=bounds[0], stop=bounds[1], progress=told)
    given: list[Any] = [getattr(f, "image", f) for f in value] if isinstance(value, Sequence) else [value]
    if not all(isinstance(g, Image) for g in given):
        raise InputError(f"a video is a path or a list of frames. Got {_short(value)}")
    if not given:
        raise MediaError(f"{name}: has no frames")
    pictures = tuple(map(open_image, given))
    if times is None:
        times = [getattr(f, "time", 0.5 * i) for i, f in enumerate(value)]  # bare pictures: two a second
    if len(times) != len(pictures):
        raise InputError(f"{name} has {len(pictures)} frames and {len(times)} times")
    return Item("video", pictures, tuple(float(t) for t in times), name)


def _path(value: str | Path) -> Path:
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        raise InputError(f"{value!r} is a web address; download it and give the file")
    return Path(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
