"""What a user hands over as media, as the entries of a chat message."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from PIL.Image import Image

from ..errors import InputError
from ..video import kind
from ..video.limits import DEFAULT, Limits
from ..video.part import Part, expanded

Media = str | PathLike[str] | Image | Sequence[Any]


def contents(media: Media, limits: Limits = DEFAULT) -> list[dict[str, Any]]:
    """Media as entries of a chat message; files are told apart by what they hold.

    media: a path or PIL image, or a list of them; a list inside the list is the frames of one video. A path may name a
    part of a video or a directory (:mod:`foveate.video.part`).

    Raises:
        InputError: a part of a picture, or a part that cannot be read.
        MediaError: a file that is missing, damaged or too large, or a directory without media.
    """
    many = media if isinstance(media, Sequence) and not isinstance(media, str) else [media]
    return [entry for m in many for entry in _entries(m, limits)]


def _entries(item: Any, limits: Limits) -> list[dict[str, Any]]:
    if isinstance(item, (str, PathLike)):
        return [_file(part, limits) for part in expanded(item, limits)]
    if isinstance(item, (list, tuple)):
        return [{"type": "video", "video": item}]
    return [{"type": "image", "image": item, "limits": limits}]


def _file(part: Part, limits: Limits) -> dict[str, Any]:
    what = kind(part.path, limits)
    if what == "image" and not part.whole:
        raise InputError(f"{part.path} is a picture; only videos have parts")
    bounds = {} if part.whole else {"start": part.start, "stop": part.stop}
    return {"type": what, what: part.path, "limits": limits, **bounds}
