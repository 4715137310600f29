"""The sound of a video: samples, and when they are heard."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MediaError

JITTER = 0.02  # seconds; containers round time stamps, and smaller gaps than this are none
LONGEST_GAP = 600.0  # seconds of silence that are filled in; a damaged time stamp may claim years


@dataclass(frozen=True, eq=False)
class Audio:
    """Sound.

    Attributes:
        samples: (channels, n) float32, in [-1, 1]. Gaps between time stamps are silent.
        rate: samples a second.
        start: when the first sample is heard, in seconds from the video's first frame; may be below 0.
    """

    samples: NDArray[np.float32]
    rate: int
    start: float

    @property
    def times(self) -> NDArray[np.float64]:
        """(n,) float64, seconds from the video's first frame at which each sample is heard."""
        at: NDArray[np.float64] = self.start + np.arange(self.samples.shape[1], dtype=np.float64) / self.rate
        return at


def read_audio(path: Path, begin: float, end: float, zero: float, rate: int | None, mono: bool) -> Audio | None:
    """Sound from ``begin`` to ``end`` seconds after ``zero``, in the file's clock; None if the file has no sound.

    From 0 on, what is heard before the first frame is included. Memory: the samples. Packets that cannot be decoded
    leave a silent gap.

    Raises:
        InputError: a rate that is not positive.
        MediaError: nothing can be decoded.
    """
    if rate is not None and rate < 1:
        raise InputError(f"'rate' must be at least 1 sample a second. Got {rate}.")
    try:
        with av.open(str(path)) as container:
            stream = next((s for s in container.streams.audio if s.codec_context is not None), None)
            if stream is None:
                return None
            if begin > 0 and stream.time_base:
                container.seek(int((begin + zero) / stream.time_base), stream=stream, backward=True)
            return _placed(_blocks(container, stream, rate, mono), begin, end, zero, path)
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise MediaError(
            f"{path}: its sound cannot be decoded ({getattr(error, 'strerror', None) or error})"
        ) from error


def _blocks(container: Any, stream: Any, rate: int | None, mono: bool) -> Iterator[tuple[float, int, Any]]:
    """(seconds in the file's clock, samples a second, (channels, n) float32) of each decoded frame."""
    convert = av.AudioResampler(format="fltp", layout="mono" if mono else None, rate=rate)
    time = None
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        for frame in frames:
            time = frame.time if frame.time is not None else time
            for block in convert.resample(frame):
                yield block.time if block.time is not None else time or 0.0, block.sample_rate, block.to_ndarray()
    for block in convert.resample(None):
        yield block.time if block.time is not None else time or 0.0, block.sample_rate, block.to_ndarray()


def _placed(blocks: Iterator[tuple[float, int, Any]], begin: float, end: float, zero: float, path: Path) -> Audio:
    parts: list[NDArray[np.float32]] = []
    start, length, made = 0.0, 0, 0
    for time, rate, samples in blocks:
        at, made = time - zero, made or rate
        if at >= end:
            break
        if begin > 0 and at + samples.shape[1] / rate <= begin:
            continue
        if not parts:
            start = at
        gap = (at - start) * made - length
        if abs(gap) > JITTER * made:
            if gap < 0 or gap > LONGEST_GAP * made:
                continue  # goes back in time, or far ahead: the stamp is damaged
            parts.append(np.zeros((samples.shape[0], round(gap)), np.float32))
            length += round(gap)
        if rate != made or (parts and samples.shape[0] != parts[0].shape[0]):
            continue  # the stream changes its form, which a part of it cannot follow
        parts.append(samples)
        length += samples.shape[1]
    if not parts:
        raise MediaError(f"{path}: no sound can be decoded from {begin:.2f} s on")
    whole = np.concatenate(parts, 1)
    skip = max(0, math.ceil((begin - start) * made - 1e-6)) if begin > 0 else 0
    stop = whole.shape[1] if end == math.inf else max(skip, math.ceil((end - start) * made - 1e-6))
    return Audio(np.ascontiguousarray(whole[:, skip:stop], np.float32), made, start + skip / made)
