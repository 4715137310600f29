"""Compressed video through PyAV: which frames there are, and exactly the ones asked for.

Opening reads the packets' time stamps (no decoding), so the length is real even where the header is silent or wrong.
Frames are then found by seeking to the keyframe before them and decoding forward; going on from where the last request
ended costs no seek. Held in memory: the time stamps (about 100 bytes a frame) and one decoded frame.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av

from ..errors import MediaError
from .ahead import Ahead, Fetched, Lane, Pixels
from .convert import Converter
from .images import check_size
from .index import Index, read_index
from .jobs import cut
from .limits import DEFAULT, Limits
from .stream import video_stream

WORTH_IT = 40_000_000  # pixels; decoding fewer is over before threads have opened the file
EARLY = 0.2  # seconds; a file that ends this much before its header says is cut off


class Coded:
    """One video file. Frames are numbered in the order they are shown.

    Attributes:
        times: (frames,) float64, seconds from the first frame, ascending.
        duration: seconds; of a file that ends early, what its header promises.
        readable: seconds for which the file holds packets; less than ``duration`` if it ends early.
        keys: frame numbers that can be decoded on their own.
        size: (width, height) as shown.
        start: when the first frame is shown, in seconds of the file's own clock, which sound shares.

    Raises MediaError if the file cannot be opened, or has no video stream or no frame that can be decoded.
    """

    def __init__(self, path: Path, limits: Limits = DEFAULT) -> None:
        self.path = path
        self._limits = limits
        self._picture = Converter()
        self._threads = True
        self._run: Iterator[Any] | None = None
        self._last: tuple[int, Any] | None = None
        self._count = 0
        self._bad: set[int] = set()
        self._blind: set[int] = set()  # keyframes after which nothing comes at once, as with intra refresh
        self._open()
        try:
            self._index = self._read_index()
            self.times, self.readable, self.keys = self._index.times, self._index.readable, self._index.keys
            self.duration = max(self.readable, self._promised())
            self.start = self._index.start
            height, width, _ = self._picture(self._first()).shape
            self.size = width, height
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the decoder; safe to call twice."""
        self._run = self._last = None
        self._container.close()

    def several(self, numbers: Sequence[int], workers: int, room: int) -> Iterator[Fetched]:
        """Frames of these numbers, distinct and ascending, decoded ahead in threads. Otherwise as :meth:`fetch`.

        workers: threads. room: bytes of decoded frames that may wait to be read.
        """
        jobs = cut(self._index, numbers)
        width, height = self.size
        cost = sum(job.span for job in jobs) * width * height
        if workers == 1 or len(numbers) == 1 or cost < WORTH_IT:
            return (self.fetch(number) for number in numbers)
        threads = -(-workers // len(jobs))  # one interval, many cores: let the codec share it out

        def lane() -> Lane:
            return Lane(self.path, self._index, self._ready, threads)

        return iter(Ahead(jobs, lane, self.fetch, workers, room))

    def fetch(self, number: int) -> tuple[int, Pixels]:
        """Frame ``number`` -> (its number, (H, W, 3) uint8). If its packet shows nothing, the frame still
        on screen.

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
        try:
            self._stream = self._ready(self._container)
        except MediaError:
            self._container.close()
            raise
        self._stream.thread_type = "AUTO" if self._threads else "NONE"

    def _ready(self, container: Any) -> Any:
        """The video stream of an opened container, its decoder told how large frames may get."""
        stream = video_stream(container)
        if stream is None:
            raise MediaError(f"{self.path}: has no frames (no video stream in it)")
        context = stream.codec_context
        if context is None:
            raise MediaError(f"{self.path}: its video codec is unknown to this PyAV; re-encode it as H.264")
        check_size((context.width, context.height), str(self.path), self._limits, least=0)
        margin = 64 * (context.width + context.height + 64)  # decoders round sides up, and count what they add
        context.options = {"max_pixels": str(self._limits.pixels + margin)}  # frames may outgrow the header
        return stream

    def _read_index(self) -> Index:
        index = read_index(self._counted(), self._stream, self._container.format.name)
        if index is None:
            raise MediaError(f"{self.path}: has no frames")
        self._restart()
        return index

    def _counted(self) -> Iterator[Any]:
        """All packets, unless there are more than the limit."""
        for count, packet in enumerate(self._packets()):
            if count > self._limits.frames:
                raise MediaError(
                    f"{self.path}: has more than {self._limits.frames:,} frames; if that is meant, open it with "
                    f"limits=Limits(frames=...)"
                )
            yield packet

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
        return first  # the next request seeks, so nothing is reset here

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

    def _fetch(self, number: int) -> tuple[int, Pixels]:
        pts, keys = self._index.pts, self._index.key_pts
        want = pts[number]
        at = max(0, bisect_right(keys, want) - 1)
        while at and keys[at] in self._blind:
            at -= 1
        key = keys[at]
        if self._run is None or self._last is None or self._last[0] > want or self._last[0] < key:
            self._seek(None if self._index.counted or key > want else self._index.key_seek[at])
        found = self._forward(want, key)
        if found is None or found[1].is_corrupt:
            # the seek overshot, packets here show nothing, or frames refer to what was before: once more from the start
            self._blind.add(key)
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
