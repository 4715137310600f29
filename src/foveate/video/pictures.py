"""Files that Pillow reads, seen as video: animated GIF, PNG, WebP and AVIF, and one still picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import MediaError
from .images import DAMAGE, flatten, is_animated, open_image
from .limits import DEFAULT, Limits

SHORTEST, UNSET = 20, 100  # milliseconds; browsers show frames said to last less than SHORTEST for UNSET


class _TooLongError(Exception):
    """More pictures than the limit."""


class Pictures:
    """Same attributes and methods as :class:`foveate.video.coded.Coded`.

    A still picture is one frame at 0 s with a duration of 0 s.

    Raises:
        MediaError: the file holds no frame that can be decoded.
    """

    def __init__(self, path: Path, image: Image.Image, limits: Limits = DEFAULT) -> None:
        self.path = path
        self.start = 0.0
        self.keys = [0]
        self._limits = limits
        self._image = image
        self._animated = is_animated(image)
        lasts = self._lasts() if self._animated else [0.0]
        ends = np.cumsum(np.asarray(lasts, dtype=np.float64)) / 1e3
        self.times = np.concatenate([np.zeros(1), ends[:-1]])
        self.duration = self.readable = float(ends[-1])
        self.size = image.size if self._animated else open_image(path, limits).size

    def _lasts(self) -> list[float]:
        """Milliseconds each picture is shown; up to the first one that cannot be reached."""
        lasts: list[float] = []
        most = min(self._limits.frames, self._limits.animation // (self._image.width * self._image.height))
        try:
            for number in itertools.count():  # a header may promise billions
                try:
                    self._image.seek(number)
                except EOFError:
                    break
                if number >= max(1, most):
                    raise _TooLongError
                self._image.load()
                told = float(self._image.info.get("duration", 0))
                lasts.append(told if told >= SHORTEST else UNSET)
        except _TooLongError:
            width, height = self._image.size
            raise MediaError(
                f"{self.path}: has more than {max(1, most):,} pictures of {width}x{height} pixels; if that is meant, "
                "raise 'animation' or 'frames' with limits=Limits(...)"
            ) from None
        except DAMAGE as error:
            if not lasts:
                raise MediaError(f"{self.path}: has no frames that can be decoded; get a fresh copy") from error
        if not lasts:
            raise MediaError(f"{self.path}: has no frames that can be decoded; get a fresh copy")
        return lasts

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._image.close()

    def several(self, numbers: Sequence[int], workers: int, room: int) -> Iterator[tuple[int, Image.Image]]:
        """Pictures of these numbers, one after another: Pillow has no other way."""
        return (self.fetch(number) for number in numbers)

    def fetch(self, number: int) -> tuple[int, Image.Image]:
        """Picture ``number`` -> (number, RGB picture)."""
        if not self._animated:
            return 0, open_image(self.path, self._limits)
        try:
            self._image.seek(number)
            return number, flatten(self._image)
        except DAMAGE as error:
            time = self.times[number]
            raise MediaError(
                f"{self.path}: the frame at {time:.2f} s cannot be decoded ({error}); "
                "ask for earlier times, or get a fresh copy"
            ) from error
