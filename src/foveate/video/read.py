"""A video as a person thinks of it: what is on screen at these times.

    with open_video("match.mp4") as video:
        frames = video.sample(16)  # one from the middle of each sixteenth
        moment = video.at([12.5, 80.0])  # exactly what is shown at these seconds

Times are seconds from the first frame; constant and variable frame rates look the same from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError, MediaError
from .coded import Coded
from .images import check_file, check_size, sniff
from .pictures import Pictures

Progress = Callable[[int, int], None]
Strategy = Literal["uniform", "ends", "keyframes"]


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        image: RGB, upright, at the video's own size.
        time: seconds from the video's first frame at which it appears (not the time asked for).
        index: its number in the video, from 0.
    """

    image: Image.Image
    time: float
    index: int


class Video:
    """An open video; a context manager. Made by :func:`open_video`.

    Attributes:
        path: the file.
        times: (frames,) float64, seconds at which each frame appears, from 0, ascending.
        frames: number of frames.
        duration: seconds from the first frame to the end of the last; 0 for a still picture.
        fps: average frames a second; 1 for a still picture.
        width, height: pixels, after rotation.
    """

    path: Path

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = check_file(path)
        image = sniff(self.path)
        self._source: Coded | Pictures = Coded(self.path) if image is None else _pictures(self.path, image)
        self._closed = False
        self.times: NDArray[np.float64] = self._source.times
        self.frames = len(self.times)
        self.duration = self._source.duration
        self.fps = self.frames / self._source.readable if self._source.readable > 0 else 1.0
        self.width, self.height = self._source.size
        try:
            check_size(self._source.size, str(self.path))
        except MediaError:
            self.close()
            raise
        gap = float(np.median(np.diff(self.times))) if self.frames > 1 else 1.0
        self._slack = min(1e-3, gap / 4)  # Matroska rounds to milliseconds: 2/30 must find the frame at 0.067

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        size = f"{self.width}x{self.height}"
        return f"Video({str(self.path)!r}, {size}, {self.frames} frames, {self.duration:.2f} s, {self.fps:.2f} fps)"

    def __iter__(self) -> Iterator[Frame]:
        """All frames, one in memory at a time."""
        return (self._frame(number) for number in range(self.frames))

    def close(self) -> None:
        """Free the file and the decoder; safe to call twice."""
        self._closed = True
        self._source.close()

    def at(self, times: Iterable[float], *, progress: Progress | None = None) -> list[Frame]:
        """The frames on screen at these seconds, in the order asked for. Decodes forward once, whatever the order.

        times: seconds in [0, duration]; may repeat (the same Frame then comes twice).
        progress: called with (frames done, frames to decode) after each frame.

        Raises:
            InputError: a time is not a number or outside of the video.
            MediaError: a frame cannot be decoded; names the file and the time.
        """
        numbers = [self._number(float(t)) for t in times]
        wanted = sorted(set(numbers))
        found: dict[int, Frame] = {}
        for done, number in enumerate(wanted, 1):
            found[number] = self._frame(number)
            if progress is not None:
                progress(done, len(wanted))
        return [found[number] for number in numbers]

    def sample(
        self,
        n: int | None = None,
        *,
        fps: float | None = None,
        strategy: Strategy = "uniform",
        progress: Progress | None = None,
    ) -> list[Frame]:
        """Frames spread over the whole video, in order, none twice (so fewer than n if the video has fewer).

        n: at most this many frames.
        fps: one frame each 1/fps seconds from 0. With n too: at fps if that gives at most n, else n by the strategy.
        strategy: "uniform" takes the middle of each of n equal parts; "ends" includes the first and the last frame;
            "keyframes" takes the keyframe nearest to each middle (cheapest in long videos).

        Raises:
            InputError: neither n nor fps, or one that is not positive, or an unknown strategy.
            MediaError: a frame cannot be decoded; names the file and the time.
        """
        numbers = sorted({self._number(t) for t in self._spread(n, fps, strategy)})
        frames: list[Frame] = []
        for number in numbers:
            frames.append(self._frame(number))
            if progress is not None:
                progress(len(frames), len(numbers))
        return frames

    def _spread(self, n: int | None, fps: float | None, strategy: str) -> Sequence[float]:
        if n is None and fps is None:
            raise InputError("sample() needs n, a number of frames, or fps, frames a second")
        if n is not None and n < 1:
            raise InputError(f"'n' of sample() must be at least 1. Got {n}.")
        if fps is not None and not (fps > 0 and math.isfinite(fps)):
            raise InputError(f"'fps' of sample() must be above 0. Got {fps}.")
        if strategy not in get_args(Strategy):
            known = ", ".join(get_args(Strategy))
            raise InputError(f"'strategy' of sample() must be one of {known}. Got {strategy!r}.")
        if fps is not None:
            count = min(max(1, math.ceil(self.duration * fps - 1e-6)), self.frames * 1000)
            if n is None or count <= n:
                return [min(i / fps, self.duration) for i in range(count)]
        assert n is not None
        if strategy == "ends":
            return [float(t) for t in np.linspace(0.0, self.times[-1], n)] if n > 1 else [self.duration / 2]
        middles = [(i + 0.5) * self.duration / n for i in range(n)]
        if strategy == "keyframes":
            keys = self.times[self._source.keys]
            return [float(keys[np.abs(keys - t).argmin()]) for t in middles]
        return middles

    def _number(self, time: float) -> int:
        if not math.isfinite(time) or time < 0 or time > self.duration + self._slack:
            raise InputError(f"{time:g} s is outside of {self.path}, which runs from 0 to {self.duration:.3f} s")
        if time > self._source.readable + self._slack:
            raise MediaError(
                f"{self.path}: the frame at {time:.2f} s cannot be decoded; the file is cut off at "
                f"{self._source.readable:.2f} of {self.duration:.2f} s. Get a complete copy, or ask for earlier times"
            )
        return max(0, int(np.searchsorted(self.times, time + self._slack, side="right")) - 1)

    def _frame(self, number: int) -> Frame:
        if self._closed:
            raise InputError(f"{self.path} is closed; read its frames inside the 'with open_video(...)' block")
        number, image = self._source.fetch(number)
        return Frame(image, float(self.times[number]), number)


def _pictures(path: Path, image: Image.Image) -> Pictures:
    try:
        check_size(image.size, str(path))  # before anything is decoded
        return Pictures(path, image)
    except MediaError:
        image.close()
        raise


def open_video(path: str | PathLike[str]) -> Video:
    """Open a video, an animated picture or a still one (one frame) for reading.

    Raises:
        MediaError: the file is missing, empty, damaged, no video or picture, has no frames, or is under 2x2 pixels.
    """
    return Video(path)
