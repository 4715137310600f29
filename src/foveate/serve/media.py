"""Images and videos of a request: from data URIs and web addresses to frames, within the server's limits.

Files lie in a folder of their own while they are decoded and are gone afterwards. Nothing that a client writes is ever
taken for a path.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from PIL.Image import Image

from ..errors import MediaError
from ..video import Limits, open_image, open_video
from .fetch import Fetcher, too_large
from .problems import Problem, bad
from .settings import Settings


@dataclass(frozen=True)
class Medium:
    """One image or video of a request.

    Attributes:
        kind: "image" or "video".
        frames: RGB; one for an image. times: seconds of each, none for an image.
        digest: SHA-256 of the file's bytes, its kind and how it was sampled: what the frames follow from.
    """

    kind: str
    frames: tuple[Image, ...]
    times: tuple[float, ...]
    digest: str

    @property
    def entry(self) -> dict[str, Any]:
        """As an entry of a message."""
        if self.kind == "image":
            return {"type": "image", "image": self.frames[0]}
        return {"type": "video", "video": list(self.frames), "times": list(self.times)}


class Opener:
    """Opens the media of requests; safe in several threads."""

    def __init__(self, settings: Settings, fetcher: Fetcher | None = None) -> None:
        self.settings = settings
        self.fetcher = fetcher or Fetcher(
            settings.media_bytes,
            settings.media_seconds,
            settings.redirects,
            frozenset(h.lower() for h in settings.private_hosts),
        )
        self.limits = Limits(pixels=settings.pixels, animation=settings.pixels * 50)

    def open(self, kind: str, url: str, frames: int) -> Medium:
        """One image or video. kind: "image" or "video"; url: a data URI or a web address; frames: of a video.

        Raises:
            Problem: an address or a size that is not allowed, or no room for the file.
            MediaError: what came is no picture or video that can be read.
        """
        until = time.monotonic() + self.settings.media_seconds
        try:
            with tempfile.TemporaryDirectory(prefix="foveate-") as folder:
                path = Path(folder) / "media"
                digest = self._save(url, path)
                found, times = self._frames(kind, path, frames, until)
        except MediaError:  # an OSError too: what came cannot be read
            raise
        except OSError as error:
            raise _full() from error
        told = hashlib.sha256(f"{kind} {frames if kind == 'video' else 1} ".encode() + digest)
        return Medium(kind, found, times, told.hexdigest())

    def _save(self, url: str, path: Path) -> bytes:
        with path.open("wb") as file:
            out = _Sink(file)
            if url[:5].lower() == "data:":
                out.write(_decoded(url, self.settings.media_bytes))
            elif not self.settings.fetch:
                raise bad("This server takes media as data URIs only.", "messages", "media_address")
            else:
                self.fetcher.fetch(url, out)  # type: ignore[arg-type]
        return out.hash.digest()

    def _frames(self, kind: str, path: Path, n: int, until: float) -> tuple[tuple[Image, ...], tuple[float, ...]]:
        def tell(done: int, total: int) -> None:
            if time.monotonic() > until:
                raise Problem(400, "media_timeout", "A video took too long to decode; send a shorter one.", "messages")

        if kind == "image":
            return (open_image(path, self.limits),), ()
        with open_video(path, workers=1, limits=self.limits) as video:
            if video.duration > self.settings.video_seconds:
                most = f"{self.settings.video_seconds:g}"
                raise Problem(413, "media_too_long", f"A video is longer than {most} seconds.", "messages")
            sampled = video.sample(n, progress=tell)
        return tuple(f.image for f in sampled), tuple(f.time for f in sampled)


class _Sink:
    """A file that is hashed while it is written; what does not fit on the disk is the server's problem."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, piece: bytes) -> None:
        try:
            self.file.write(piece)
            self.file.flush()
        except OSError as error:
            raise _full() from error
        self.hash.update(piece)


def _full() -> Problem:
    return Problem(503, "no_storage", "The server has no room to store media.", retry=30)


def _decoded(url: str, most: int) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise bad("A data URI has no data.", "messages", "bad_media")
    if len(body) > most * 4 // 3 + 4:
        raise too_large(most)
    if not head.lower().endswith(";base64"):
        raise bad("A data URI must be base64.", "messages", "bad_media")
    try:
        data = base64.b64decode(unquote_to_bytes(body) if "%" in body else body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad("A data URI is not base64.", "messages", "bad_media") from error
    if not data:
        raise bad("A data URI has no data.", "messages", "bad_media")
    return data
