"""What a user means by a path: a file, a part of one (``clip.mp4[00:10-00:25]``), or all media in a directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..errors import InputError, MediaError
from .images import kind
from .limits import DEFAULT, Limits

#: Suffixes of files that are meant to be media: in a directory others are passed over, these must be readable.
MEANT = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".gif", ".png", ".jpg"}
    | {".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"}
)
_RANGE = re.compile(r"^(?P<path>.+)\[(?P<start>[\d:.]*)\s*-\s*(?P<stop>[\d:.]*)\]$", re.S)


@dataclass(frozen=True)
class Part:
    """A file, or the part of a video from ``start`` to ``stop`` seconds (None: to its end)."""

    path: Path
    start: float = 0.0
    stop: float | None = None

    @property
    def whole(self) -> bool:
        """True if nothing is cut off."""
        return self.start == 0 and self.stop is None


def part_of(text: str | PathLike[str]) -> Part:
    """``"clip.mp4"``, ``"clip.mp4[10-25]"``, ``"clip.mp4[00:10-00:25]"``, ``"clip.mp4[1:02:03.5-]"`` -> what is meant.

    A file whose name really ends in brackets is that file.

    Raises:
        InputError: a time that cannot be read, or a part that ends before it starts.
    """
    path = Path(text).expanduser()
    found = _RANGE.match(str(text))
    if found is None or path.exists():
        return Part(path)
    start, stop = (_seconds(found[name], str(text)) for name in ("start", "stop"))
    if stop is not None and stop <= (start or 0.0):
        raise InputError(f"{str(text)!r}: the part ends before it starts")
    return Part(Path(found["path"]).expanduser(), start or 0.0, stop)


def _seconds(text: str, whole: str) -> float | None:
    if not text:
        return None
    fields = text.split(":")
    try:
        values = [float(f) for f in fields]
    except ValueError:
        values = []
    if not 1 <= len(values) <= 3 or any(v >= 60 for v in values[1:]) or any("." in f for f in fields[:-1]):
        raise InputError(
            f"{whole!r}: {text!r} is no time; write seconds, MM:SS or HH:MM:SS, as in clip.mp4[00:10-00:25]"
        )
    return sum(v * 60.0**i for i, v in enumerate(reversed(values)))


def expanded(text: str | PathLike[str], limits: Limits = DEFAULT) -> list[Part]:
    """A path -> the files it stands for: itself or a part, or what a directory holds, by name, not what is below it.

    Raises:
        InputError: as :func:`part_of`.
        MediaError: a directory without pictures and videos, or with one that cannot be read.
    """
    part = part_of(text)
    if not part.path.is_dir() or not part.whole:
        return [part]
    found = [p for p in sorted(part.path.iterdir()) if p.is_file() and not p.name.startswith(".")]
    files = [Part(p) for p in found if p.suffix.lower() in MEANT or _is_media(p, limits)]
    if not files:
        raise MediaError(f"{part.path}: is a directory without pictures and videos")
    return files


def _is_media(path: Path, limits: Limits) -> bool:
    try:
        kind(path, limits)
    except MediaError:
        return False
    return True
