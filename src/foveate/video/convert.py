"""A decoded frame as upright RGB, the same bytes as PyAV's own conversion gives, without making a converter anew."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from av import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from .images import flatten

#: 2x2 part of the display matrix (signs) -> how to turn the decoded frame.
TURNS = {
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


class Converter:
    """Frames of one stream to RGB. Keeps the tables that a conversion needs from one frame to the next.

    Not to be shared among threads.

    threads: how many threads convert one frame; 0 lets FFmpeg choose. The bytes do not depend on it. PyAV before 17
        takes no number, and then FFmpeg chooses.
    """

    def __init__(self, threads: int = 0) -> None:
        self._to = VideoReformatter()
        self._how = {"threads": threads} if _takes_threads() else {}

    def __call__(self, frame: Any) -> NDArray[np.uint8]:
        """An ``av.VideoFrame`` -> (height, width, 3) uint8, turned as its display matrix says, alpha over white.

        Raises av.error.FFmpegError or ValueError for a frame that cannot be converted.
        """
        if any(c.is_alpha for c in frame.format.components):
            rgba = self._to.reformat(frame, format="rgba", **self._how).to_ndarray()
            rgb: NDArray[np.uint8] = np.asarray(flatten(Image.fromarray(rgba, "RGBA")))
        else:
            made = self._to.reformat(frame, format="rgb24", **self._how)
            plane: Any = made.planes[0]
            lines = np.frombuffer(plane, np.uint8).reshape(made.height, -1)  # of the frame itself, padded
            rgb = lines[:, : 3 * made.width].reshape(made.height, made.width, 3)  # a view: nothing is copied
        turn = _turn(frame)
        return rgb if turn is None else np.asarray(Image.fromarray(rgb).transpose(turn))


@functools.cache
def _takes_threads() -> bool:
    """Whether this PyAV lets us say how many threads convert a frame."""
    try:
        VideoReformatter().reformat(VideoFrame(16, 16, "yuv420p"), format="rgb24", threads=1)
    except TypeError:
        return False
    return True


def _turn(frame: Any) -> Image.Transpose | None:
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    return TURNS.get((round(a / 65536), round(b / 65536), round(c / 65536), round(d / 65536)))
