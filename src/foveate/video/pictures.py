"""Files that Pillow reads, seen as video: animated GIF, PNG, WebP and AVIF, and one still picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import MediaError
from .images import DAMAGE, flatten, is_animated, open_image

SHORTEST, UNSET = 20, 100  # milliseconds; browsers show frames said to last less than SHORTEST for UNSET


class Pictures:
    """Same attributes and methods as :class:`foveate.video.coded.Coded`.

    A still picture is one frame at 0 s with a duration of 0 s.

    Raises:
        MediaError: the file holds no frame that can be decoded.
    """

    def __init__(self, path: Path, image: Image.Image) -> None:
        self.path = path
        self.keys = [0]
        self._image = image
        self._animated = is_animated(image)
        lasts = self._lasts() if self._animated else [0.0]
        ends = np.cumsum(np.asarray(lasts, dtype=np.float64)) / 1e3
        self.times = np.concatenate([np.zeros(1), ends[:-1]])
        self.duration = self.readable = float(ends[-1])
        self.size = image.size if self._animated else open_image(path).size

    def _lasts(self) -> list[float]:
        """Milliseconds each picture is shown; up to the first one that cannot be reached."""
        lasts: list[float] = []
        try:
            for number in range(int(getattr(self._image, "n_frames", 1))):
                self._image.seek(number)
                self._image.load()
                told = float(self._image.info.get("duration", 0))
                lasts.append(told if told >= SHORTEST else UNSET)
        except DAMAGE as error:
            if not lasts:
                raise MediaError(f"{self.path}: has no frames that can be decoded; get a fresh copy") from error
        return lasts

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._image.close()

    def fetch(self, number: int) -> tuple[int, Image.Image]:
        """Picture ``number`` -> (number, RGB picture)."""
        if not self._animated:
            return 0, open_image(self.path)
        try:
            self._image.seek(number)
            return number, flatten(self._image)
        except DAMAGE as error:
            time = self.times[number]
            raise MediaError(
                f"{self.path}: the frame at {time:.2f} s cannot be decoded ({error}); "
                "ask for earlier times, or get a fresh copy"
            ) from error
