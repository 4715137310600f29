"""A video as a person thinks of it: what is on screen at these times.

    with open_video("match.mp4") as video:
        frames = video.sample(16)  # one from the middle of each sixteenth
        moment = video.at([12.5, 80.0])  # exactly what is shown at these seconds
        for frame in video.stream(fps=2):  # later frames are decoded while this one is used
            ...

Times are seconds from the first frame; constant and variable frame rates look the same from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError, MediaError
from .audio import Audio, read_audio
from .backends import Source, backend, cores
from .frame import Frame
from .images import check_file, check_size, sniff
from .limits import DEFAULT, Limits
from .pictures import Pictures

Progress = Callable[[int, int], None]
Strategy = Literal["uniform", "ends", "keyframes"]

ROOM = 512 * 1024 * 1024  # bytes of decoded frames that may wait to be read


class Video:
    """An open video; a context manager. Made by :func:`open_video`.

    Attributes:
        path: the file.
        times: (frames,) float64, seconds at which each frame appears, from 0, ascending.
        frames: number of frames.
        duration: seconds from the first frame to the end of the last; 0 for a still picture.
        fps: average frames a second; 1 for a still picture.
        width, height: pixels, after rotation.
        workers: threads that decode; 1 decodes in the caller's.
    """

    path: Path

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        workers: int | None = None,
        room: int = ROOM,
        limits: Limits = DEFAULT,
        using: str = "pyav",
    ) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"'workers' must be at least 1. Got {workers}.")
        self.path = check_file(path)
        self.workers = workers or cores()
        self._room = room
        image = sniff(self.path, limits)
        make = backend(using)
        self._source: Source = make(self.path, limits) if image is None else _pictures(self.path, image, limits)
        self._closed = False
        self.times: NDArray[np.float64] = self._source.times
        self.frames = len(self.times)
        self.duration = self._source.duration
        self.fps = self.frames / self._source.readable if self._source.readable > 0 else 1.0
        self.width, self.height = self._source.size
        try:
            check_size(self._source.size, str(self.path), limits)
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
        """All frames; as :meth:`stream`."""
        return self._frames(range(self.frames))

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
        found = dict(zip(wanted, self._all(wanted, progress), strict=True))
        return [found[number] for number in numbers]

    def sample(
        self,
        n: int | None = None,
        *,
        fps: float | None = None,
        strategy: Strategy = "uniform",
        start: float = 0.0,
        stop: float | None = None,
        progress: Progress | None = None,
    ) -> list[Frame]:
        """Frames spread over the whole video, in order, none twice (so fewer than n if the video has fewer).

        n: at most this many frames.
        fps: one frame each 1/fps seconds from 0. With n too: at fps if that gives at most n, else n by the strategy.
        strategy: "uniform" takes the middle of each of n equal parts; "ends" includes the first and the last frame;
            "keyframes" takes the keyframe nearest to each middle (cheapest in long videos).
        start, stop: seconds; only this part of the video, to its end by default.

        Raises:
            InputError: neither n nor fps, or one that is not positive, or an unknown strategy, or an empty part.
            MediaError: a frame cannot be decoded; names the file and the time.
        """
        return self._all(self.chosen(n, fps=fps, strategy=strategy, start=start, stop=stop), progress)

    def chosen(
        self,
        n: int | None = None,
        *,
        fps: float | None = None,
        strategy: Strategy = "uniform",
        start: float = 0.0,
        stop: float | None = None,
    ) -> list[int]:
        """Numbers of the frames that :meth:`sample` gives, ascending; nothing is decoded. Raises InputError as it."""
        part = self._part(start, stop)
        return sorted({self._number(t) for t in self._spread(n, fps, strategy, *part)})

    def several(self, numbers: Sequence[int]) -> Iterator[Frame]:
        """Frames of these numbers (distinct, ascending) one by one; later ones are decoded while this one is used.

        Raises:
            MediaError: a frame cannot be decoded; names the file and the time.
        """
        return self._frames(numbers)

    def stream(self, *, fps: float | None = None, start: float = 0.0, stop: float | None = None) -> Iterator[Frame]:
        """Frames in order, later ones decoded in other threads while the caller uses this one.

        Memory is bounded by ``room`` whatever the length: decoding waits when so many bytes of frames were not read.

        fps: one frame each 1/fps seconds; default all frames. start, stop: seconds; only this part of the video.

        Raises:
            InputError: 'fps' is not positive, or the part is empty or outside of the video.
            MediaError: a frame cannot be decoded; names the file and the time.
        """
        begin, end = self._part(start, stop)
        if fps is not None:
            return self._frames(sorted({self._number(t) for t in self._spread(None, fps, "uniform", begin, end)}))
        first = self._number(begin)
        last = int(np.searchsorted(self.times, end - self._slack)) if stop is not None else self.frames
        return self._frames(range(first, max(first + 1, last)))

    def audio(
        self, start: float = 0.0, stop: float | None = None, *, rate: int | None = None, mono: bool = False
    ) -> Audio | None:
        """The sound of the video, or None if it has none. Times are the frames' own: seconds from the first frame.

        start, stop: seconds; only this part. rate: samples a second to convert to; default the file's own.
        mono: mix all channels into one.

        Raises:
            InputError: an empty part, or a rate that is not positive.
            MediaError: the sound cannot be decoded at all.
        """
        begin, end = self._part(start, stop)
        if isinstance(self._source, Pictures):
            return None
        return read_audio(self.path, begin, end if stop is not None else math.inf, self._source.start, rate, mono)

    # --- which frames -------------------------------------------------------------------------------------------

    def _part(self, start: float, stop: float | None) -> tuple[float, float]:
        end = self.duration if stop is None else min(float(stop), self.duration)
        if not (0 <= start <= self.duration) or not (start < end or (start == end == self.duration == 0)):
            told = f"{start:g} to {'the end' if stop is None else f'{stop:g}'} s"
            raise InputError(f"{told} is no part of {self.path}, which runs from 0 to {self.duration:.3f} s")
        return float(start), end

    def _spread(self, n: int | None, fps: float | None, strategy: str, start: float, stop: float) -> Sequence[float]:
        if n is None and fps is None:
            raise InputError("sample() needs n, a number of frames, or fps, frames a second")
        if n is not None and n < 1:
            raise InputError(f"'n' of sample() must be at least 1. Got {n}.")
        if fps is not None and not (fps > 0 and math.isfinite(fps)):
            raise InputError(f"'fps' of sample() must be above 0. Got {fps}.")
        if strategy not in get_args(Strategy):
            known = ", ".join(get_args(Strategy))
            raise InputError(f"'strategy' of sample() must be one of {known}. Got {strategy!r}.")
        length = stop - start
        if fps is not None:
            count = min(max(1, math.ceil(length * fps - 1e-6)), self.frames * 1000)
            if n is None or count <= n:
                return [min(start + i / fps, stop) for i in range(count)]
        assert n is not None
        if strategy == "ends":
            last = max(start, min(stop, float(self.times[-1])))
            return [float(t) for t in np.linspace(start, last, n)] if n > 1 else [start + length / 2]
        middles = [start + (i + 0.5) * length / n for i in range(n)]
        if strategy == "keyframes":
            keys = self.times[self._source.keys]
            inside = keys[(keys >= start) & (keys <= stop)]
            return [float(inside[np.abs(inside - t).argmin()]) for t in middles] if len(inside) else middles
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

    # --- reading them -------------------------------------------------------------------------------------------

    def _all(self, numbers: Sequence[int], progress: Progress | None) -> list[Frame]:
        frames: list[Frame] = []
        for frame in self._frames(numbers):
            frames.append(frame)
            if progress is not None:
                progress(len(frames), len(numbers))
        return frames

    def _frames(self, numbers: Sequence[int]) -> Iterator[Frame]:
        """Frames of these numbers, ascending."""
        self._check_open()
        for number, picture in self._source.several(numbers, self.workers, self._room):
            yield Frame(picture, float(self.times[number]), number)
            self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError(f"{self.path} is closed; read its frames inside the 'with open_video(...)' block")


def _pictures(path: Path, image: Image.Image, limits: Limits) -> Pictures:
    try:
        check_size(image.size, str(path), limits)  # before anything is decoded
        return Pictures(path, image, limits)
    except MediaError:
        image.close()
        raise


def open_video(
    path: str | PathLike[str],
    *,
    workers: int | None = None,
    room: int = ROOM,
    limits: Limits = DEFAULT,
    using: str = "pyav",
) -> Video:
    """Open a video, an animated picture or a still one (one frame) for reading.

    workers: threads that decode; default one for each core. room: bytes of decoded frames that may wait to be read.
    limits: what is refused as too large. using: the backend, "pyav", "torchcodec", or one of an installed package.

    Raises:
        MediaError: the file is missing, empty, damaged, no video or picture, has no frames, or is under 2x2 pixels.
        InputError: an unknown backend, or one whose package is missing.
    """
    return Video(path, workers=workers, room=room, limits=limits, using=using)
