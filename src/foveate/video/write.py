"""Frames to a video file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ..errors import InputError, MediaError
from .images import open_image

CODECS = {".webm": ("libvpx-vp9", "libvpx"), "": ("libx264", "mpeg4")}  # by suffix; the first one PyAV has
CLOCK = 90_000  # ticks a second of files with their own times


def write_video(
    path: str | PathLike[str],
    frames: Iterable[Image.Image | np.ndarray[Any, Any]],
    fps: float = 8,
    *,
    times: Iterable[float] | None = None,
    crf: int = 18,
    keyframe_every: int = 48,
) -> Path:
    """Write frames as H.264 (MPEG-4 where PyAV lacks libx264), or VP9 for ``.webm``; returns the path.

    frames: at least one; PIL images or arrays (H, W, 3) as in :func:`foveate.video.open_image`, all of one size.
        Frames are taken one by one, so a generator keeps memory small. Odd sizes are stored without colour subsampling.
    fps: frames a second.
    times: seconds at which each frame appears, strictly ascending, for a variable rate; fps is then only a hint.
    crf: quality, 0 (best) to 51. keyframe_every: frames from one keyframe to the next at most.

    Raises:
        InputError: no frames, frames of different sizes, or times that do not fit.
        MediaError: the file cannot be written.
    """
    path = Path(path)
    if not fps > 0:
        raise InputError(f"'fps' of write_video() must be above 0. Got {fps}.")
    rate = Fraction(fps).limit_denominator(1001)
    stamps = None if times is None else iter(times)
    options = {"movflags": "faststart"} if path.suffix.lower() in (".mp4", ".mov") else {}
    try:
        with av.open(str(path), "w", options=options) as container:
            stream, last = None, -1
            for i, frame in enumerate(frames):
                image = open_image(frame)
                if stream is None:
                    stream = _stream(container, path, rate, image.size, crf, keyframe_every)
                    if stamps is not None:
                        stream.time_base = stream.codec_context.time_base = Fraction(1, CLOCK)
                if image.size != (stream.width, stream.height):
                    width, height = image.size
                    raise InputError(f"frame {i} is {width}x{height}; the ones before {stream.width}x{stream.height}")
                picture = av.VideoFrame.from_image(image)
                if stamps is not None:
                    picture.pts = _tick(stamps, i, last)
                    picture.time_base = Fraction(1, CLOCK)
                    last = picture.pts
                container.mux(stream.encode(picture))
            if stream is None:
                raise InputError("write_video() was given no frames")
            container.mux(stream.encode())
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise MediaError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error
    return path


def _tick(stamps: Iterator[float], i: int, last: int) -> int:
    time = next(stamps, None)
    if time is None or round(time * CLOCK) <= last:
        raise InputError(f"'times' must give one ascending time for each frame; it does not for frame {i}")
    return round(time * CLOCK)


def _stream(container: Any, path: Path, rate: Fraction, size: tuple[int, int], crf: int, gop: int) -> Any:
    wanted = CODECS.get(path.suffix.lower(), CODECS[""])
    name = next((c for c in wanted if c in av.codecs_available), wanted[-1])
    options = {} if name == "mpeg4" else {"crf": str(crf)}
    if name == "libx264":
        options["x264-params"] = "cpu-independent=1"  # the same frames give the same file
    if name.startswith("libvpx"):
        options |= {"b": "0", "deadline": "realtime", "cpu-used": "8"}
    stream = container.add_stream(name, rate=rate, options=options)
    stream.width, stream.height = size
    even = size[0] % 2 == 0 and size[1] % 2 == 0
    stream.pix_fmt = "yuv420p" if even or name == "mpeg4" else "yuv444p"
    stream.gop_size = gop
    if name == "mpeg4":
        stream.codec_context.qmin = 2
        stream.codec_context.qmax = 4
    return stream
