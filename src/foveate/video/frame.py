"""One frame of a video."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Frame:
    """One frame, as a picture or as an array, whichever is asked for.

    Attributes:
        time: seconds from the video's first frame at which it appears (not the time asked for).
        index: its number in the video, from 0.
    """

    __slots__ = ("_array", "_image", "index", "time")

    def __init__(self, picture: Image.Image | NDArray[np.uint8], time: float, index: int) -> None:
        self._image = picture if isinstance(picture, Image.Image) else None
        self._array = None if isinstance(picture, Image.Image) else picture
        self.time, self.index = time, index

    def __repr__(self) -> str:
        return f"Frame({self.time:.3f} s, number {self.index})"

    @property
    def image(self) -> Image.Image:
        """RGB, upright, at the video's own size."""
        if self._image is None:
            assert self._array is not None
            self._image, self._array = Image.fromarray(self._array), None
        return self._image

    @property
    def array(self) -> NDArray[np.uint8]:
        """The same as (height, width, 3) uint8; its lines may lie apart in memory, and it may be read-only."""
        if self._array is not None:
            return self._array
        assert self._image is not None
        return np.asarray(self._image)
