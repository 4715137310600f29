"""Conversations as lmms-eval writes them, in transformers' chat format."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..errors import InputError, MediaError
from ..prompt.contents import contents

_FROM, _TO = ("start_time", "video_start"), ("end_time", "video_end")


def converted(messages: Sequence[dict[str, Any]], system: str = "") -> list[dict[str, Any]]:
    """One conversation. messages: role and content, entries with "type" and "text" or "url". system: said first.

    A url is a path, a picture, a data URI of one, a list of frames, or, of a video, a path with the seconds of a part.

    Raises:
        InputError: sound, an address on the web, or an entry of another type. MediaError: a damaged file.
    """
    out: list[dict[str, Any]] = []
    if system:
        out.append({"role": "system", "content": [{"type": "text", "text": system}]})
    for message in messages:
        content = message["content"]
        entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
        out.append({"role": message["role"], "content": [made for e in entries for made in _entry(e)]})
    return out


def _entry(entry: dict[str, Any]) -> list[dict[str, Any]]:
    kind = entry.get("type")
    if kind == "text":
        return [{"type": "text", "text": entry["text"]}]
    if kind not in ("image", "video"):
        raise InputError(f"foveate takes texts, images and videos. This task sends {kind!r}.")
    url = entry["url"]
    if isinstance(url, dict):  # a video with its part
        entry = {**url, **{k: v for k, v in entry.items() if k != "url"}}
        url = url.get("url") or url.get("path") or url.get("video")
    if isinstance(url, Image.Image):
        return contents(url.convert("RGB"))
    if isinstance(url, list | tuple):
        return contents([list(url)])
    if not isinstance(url, str):
        raise InputError(
            f"foveate takes a {kind} as a path, a picture or frames. This task sends {type(url).__name__}."
        )
    if url.startswith("data:"):
        return contents(_picture(url))
    if url.startswith(("http://", "https://")):
        raise InputError(f"foveate fetches nothing from the web; download {url[:200]!r} first")
    (made, *more) = contents(url.removeprefix("file://"))
    bounds = {name: _first(entry, keys) for name, keys in (("start", _FROM), ("stop", _TO))}
    if made["type"] == "video" and not more:
        made |= {k: v for k, v in bounds.items() if v is not None}
    return [made, *more]


def _first(entry: dict[str, Any], keys: Sequence[str]) -> float | None:
    return next((float(entry[k]) for k in keys if entry.get(k) is not None), None)


def _picture(url: str) -> Image.Image:
    """The picture of a data URI."""
    try:
        return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2], validate=True))).convert("RGB")
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError) as error:
        raise MediaError(f"a data URI holds no picture ({error})") from error
