"""Compressed video through PyAV: which frames there are, and exactly the ones asked for.

Opening reads the packets' time stamps (no decoding), so the length is real even where the header is silent or wrong.
Frames are then found by seeking to the keyframe before them and decoding forward; going on from where the last request
ended costs no seek. Held in memory: the time stamps (about 100 bytes a frame) and one decoded frame.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ..errors import MediaError
from .images import flatten
from .index import Index, read_index

# 2x2 part of the display matrix (signs) -> how to turn the decoded frame.
TURNS = {
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}

EARLY = 0.2  # seconds; a file that ends this much before its header says is cut off


def has_video(path: Path) -> bool:
    """True if PyAV finds a moving picture in the file (a cover inside a song is none)."""
    try:
        with av.open(str(path)) as container:
            return _stream(container) is not None
    except (av.error.FFmpegError, ValueError, OSError):
        return False


def _stream(container: Any) -> Any:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None


class Coded:
    """One video file. Frames are numbered in the order they are shown.

    Attributes:
        times: (frames,) float64, seconds from the first frame, ascending.
        duration: seconds; of a file that ends early, what its header promises.
        readable: seconds for which the file holds packets; less than ``duration`` if it ends early.
        keys: frame numbers that can be decoded on their own.
        size: (width, height) as shown.

    Raises MediaError if the file cannot be opened, or has no video stream or no frame that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._threads = True
        self._run: Iterator[Any] | None = None
        self._last: tuple[int, Any] | None = None
        self._count = 0
        self._bad: set[int] = set()
        self._open()
        try:
            self._index = self._read_index()
            self.times, self.readable, self.keys = self._index.times, self._index.readable, self._index.keys
            self.duration = max(self.readable, self._promised())
            self.size = self._picture(self._first()).size
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the decoder; safe to call twice."""
        self._run = self._last = None
        self._container.close()

    def fetch(self, number: int) -> tuple[int, Image.Image]:
        """Frame ``number`` -> (its number, picture). A packet that shows nothing gives the frame still on screen.

        Raises MediaError if the frame cannot be decoded.
        """
        try:
            return self._fetch(number)
        except av.error.FFmpegError:
            if not self._threads:
                raise
        self._threads = False  # threads report damage late; once more without them, to know which frames it spoils
        self._restart()
        return self._fetch(number)

    # --- opening ------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            self._container = av.open(str(self.path))
        except (av.error.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise MediaError(
                f"{self.path}: cannot be opened as a video or picture ({reason}); it is another kind of file or damaged"
            ) from error
        self._stream = _stream(self._container)
        if self._stream is None:
            self._container.close()
            raise MediaError(f"{self.path}: has no frames (no video stream in it)")
        if self._stream.codec_context is None:
            self._container.close()
            raise MediaError(f"{self.path}: its video codec is unknown to this PyAV; re-encode it as H.264")
        self._stream.thread_type = "AUTO" if self._threads else "NONE"

    def _read_index(self) -> Index:
        index = read_index(self._packets(), self._stream, self._container.format.name)
        if index is None:
            raise MediaError(f"{self.path}: has no frames")
        self._restart()
        return index

    def _promised(self) -> float:
        """Seconds the header promises if the file holds less, else 0."""
        stream = self._stream
        if stream.frames > self._index.packets and stream.duration:
            return float(stream.duration * stream.time_base)
        if not stream.frames and self._container.duration and not self._index.counted:
            told = self._container.duration / av.time_base  # longest stream: believe it only if it is far off
            if told > self.readable + EARLY and self._ends_early(told):
                return float(told)
        return 0.0

    def _ends_early(self, told: float) -> bool:
        """True if no stream of the file (sound may go on after the pictures) reaches the header's duration."""
        self._restart()
        end = 0.0
        try:
            for packet in self._container.demux():
                if packet.size and packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        except av.error.FFmpegError:
            pass
        self._restart()
        return end < told - EARLY

    # --- decoding -----------------------------------------------------------------------------------------------

    def _restart(self) -> None:
        self._run = self._last = None
        self._container.close()
        self._open()

    def _decode(self) -> Iterator[Any]:
        """Frames from where the container stands. Damaged packets are skipped and what they spoil is noted.

        With threads on damage raises instead, since they report it too late to know the packet.
        """
        for packet in self._packets():
            try:
                if packet.is_corrupt:
                    raise av.error.InvalidDataError(0, "packet cut short")
                frames = packet.decode()
            except av.error.FFmpegError:
                if self._threads:
                    raise
                self._spoil(packet)
                continue
            yield from frames

    def _packets(self) -> Iterator[Any]:
        """Packets to the end of the file, or to where it cannot be read any more, then the empty one that flushes."""
        try:
            yield from self._container.demux(self._stream)
        except av.error.FFmpegError:
            flush = av.Packet()
            flush.stream = self._stream
            yield flush

    def _first(self) -> Any:
        """The first frame that can be decoded."""
        try:
            first = next(self._decode(), None)
        except av.error.FFmpegError:
            self._threads = False
            self._restart()
            first = next(self._decode(), None)
        if first is None:
            raise MediaError(f"{self.path}: has no frames that can be decoded; get a fresh copy")
        self._restart()
        return first

    def _spoil(self, packet: Any) -> None:
        """All frames from this packet to the next keyframe, in decoding order, cannot be trusted."""
        if self._index.counted:
            self._bad.update(range(self._count, len(self._index.order)))  # how many are missing is unknown
        if not packet.size or packet.pts is None or self._index.counted:
            return
        at = self._index.order.index(packet.pts)
        for i in range(at, len(self._index.order)):
            if i > at and self._index.order_key[i]:
                break
            self._bad.add(self._index.order[i])

    def _stamped(self) -> Iterator[tuple[int, Any]]:
        self._count = 0
        for frame in self._decode():
            stamp = self._count if self._index.counted else frame.pts if frame.pts is not None else frame.dts
            self._count += 1
            if stamp is not None:
                yield int(stamp), frame

    def _seek(self, pts: int | None) -> None:
        """Stand before the keyframe at ``pts``; None: at the start of the file."""
        self._last = None
        if pts is None:
            self._restart()
        else:
            try:
                self._container.seek(pts, stream=self._stream, backward=True)
            except av.error.FFmpegError:  # a damaged list of keyframes
                self._restart()
        self._run = self._stamped()

    def _fetch(self, number: int) -> tuple[int, Image.Image]:
        pts, keys = self._index.pts, self._index.key_pts
        want = pts[number]
        key = keys[max(0, bisect_right(keys, want) - 1)]
        if self._run is None or self._last is None or self._last[0] > want or self._last[0] < key:
            self._seek(None if self._index.counted or key > want else key)
        found = self._forward(want, key)
        if found is None:  # the seek overshot, or packets here show nothing: once more from the start
            self._seek(None)
            found = self._forward(want, pts[0])
        if found is None or want in self._bad or found[0] in self._bad or found[1].is_corrupt:
            raise MediaError(self._damage(number))
        return max(0, bisect_right(pts, found[0]) - 1), self._picture(found[1])

    def _forward(self, want: int, key: int) -> tuple[int, Any] | None:
        """Decode until ``want`` is passed -> the frame on screen then, or None if nothing from ``key`` on came by."""
        held = self._last if self._last is not None and self._last[0] <= want else None
        if held is not None and held[0] == want:
            return held
        assert self._run is not None
        for stamp, frame in self._run:
            self._last = (stamp, frame)
            if stamp == want:
                return stamp, frame
            if stamp > want:
                break
            held = (stamp, frame)
        return held if held is not None and held[0] >= key else None

    def _damage(self, number: int) -> str:
        spoilt = [p for p in self._bad if p <= self._index.pts[number]]
        time = self.times[number]
        since = self.times[min(bisect_left(self._index.pts, min(spoilt)), number)] if spoilt else time
        return (
            f"{self.path}: the frame at {time:.2f} s cannot be decoded; the file is damaged from {since:.2f} s on. "
            f"Ask for times outside of the damage, or repair it: ffmpeg -i {self.path.name} fixed.mp4"
        )

    def _picture(self, frame: Any) -> Image.Image:
        """A decoded frame as upright RGB; formats with alpha over white."""
        if any(c.is_alpha for c in frame.format.components):
            image = flatten(Image.fromarray(frame.to_ndarray(format="rgba"), "RGBA"))
        else:
            image = frame.to_image()
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return image
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
        turn = TURNS.get(tuple(round(v / 65536) for v in (a, b, c, d)))
        return image.transpose(turn) if turn is not None else image
