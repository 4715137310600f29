"""Decoding by torchcodec, an optional extra: ``pip install "foveate[torchcodec]"``, and FFmpeg's shared libraries.

Which frames there are and when they are shown is read by PyAV as always, so the two backends agree about that; colours
are converted by torchcodec, and may differ from PyAV's by a few levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MediaError
from .coded import Coded
from .limits import DEFAULT, Limits

AT_ONCE = 32  # frames asked of torchcodec in one call


class TorchCodec:
    """Same attributes and methods as :class:`foveate.video.coded.Coded`.

    Raises:
        InputError: torchcodec or FFmpeg is missing.
        MediaError: the file cannot be opened.
    """

    def __init__(self, path: Path, limits: Limits = DEFAULT) -> None:
        self._decoder_class = _decoder_class()
        self._coded = Coded(path, limits)
        self.path = path
        self.times, self.duration, self.readable = self._coded.times, self._coded.duration, self._coded.readable
        self.keys, self.size, self.start = self._coded.keys, self._coded.size, self._coded.start

    def close(self) -> None:
        """Free the decoder; safe to call twice."""
        self._coded.close()

    def several(self, numbers: Sequence[int], workers: int, room: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Frames of these numbers, ascending. workers: threads of FFmpeg. Frames that it cannot give come from PyAV."""
        try:
            decoder: Any = self._decoder_class(
                str(self.path), dimension_order="NHWC", num_ffmpeg_threads=workers, seek_mode="exact"
            )
        except (RuntimeError, ValueError) as error:
            raise MediaError(
                f"{self.path}: torchcodec cannot open it ({' '.join(str(error).split())[:200]})"
            ) from error
        if decoder.metadata.num_frames != len(self.times):
            yield from self._coded.several(numbers, workers, room)  # it counts frames that are never shown, or fewer
            return
        for at in range(0, len(numbers), AT_ONCE):
            some = list(numbers[at : at + AT_ONCE])
            try:
                batch = decoder.get_frames_at(some).data
            except (RuntimeError, ValueError, IndexError):
                yield from self._coded.several(some, workers, room)
                continue
            for number, frame in zip(some, batch, strict=True):
                yield number, frame.numpy()


def _decoder_class() -> Any:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"torchcodec cannot be used ({why}): pip install 'foveate[torchcodec]', and install FFmpeg"
        ) from error
    return VideoDecoder
