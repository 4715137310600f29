"""Decoding in threads, ahead of whoever reads: while one interval is read, the next ones are decoded.

QuickVideo's decoder (arXiv 2505.16175): each thread has a decoder of its own and takes the next keyframe-aligned
interval. FFmpeg runs without Python's lock, so threads are as parallel as processes and hand frames over for nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from .convert import Converter
from .index import Index
from .jobs import Job

Pixels = NDArray[np.uint8]
Fetched = tuple[int, Any]  # frame number, and its pixels or picture


class _TroubleError(Exception):
    """This interval does not decode as its index promises."""


class Lane:
    """One thread's own decoder of a file.

    setup: gets the opened container, and gives its video stream ready to decode. threads: of the codec.
    """

    def __init__(self, path: Path, index: Index, setup: Callable[[Any], Any], threads: int = 1) -> None:
        self._path, self._index, self._setup, self._threads = path, index, setup, threads
        self._open()

    def _open(self) -> None:
        self._container = av.open(str(self._path))
        self._stream = self._setup(self._container)
        self._stream.thread_type = "NONE" if self._threads == 1 else "AUTO"
        self._stream.codec_context.thread_count = self._threads
        self._fresh = True

    def close(self) -> None:
        """Free the decoder."""
        self._container.close()

    def frames(self, job: Job) -> Iterator[tuple[int, Any]]:
        """The job's frames as (number, ``av.VideoFrame``). Raises whatever decoding raises, and _TroubleError."""
        if job.seek is not None:
            self._container.seek(job.seek, stream=self._stream, backward=True)
        elif not self._fresh:
            self.close()
            self._open()
        self._fresh = False
        left = deque(zip(job.numbers, job.stamps, strict=True))
        for stamp, frame in self._decoded(job):
            if stamp > left[0][1]:
                raise _TroubleError(f"no frame has the time stamp {left[0][1]}")
            if stamp == left[0][1]:
                if frame.is_corrupt:
                    raise _TroubleError("a frame is damaged")
                yield left.popleft()[0], frame
            if not left:
                return
        raise _TroubleError("the file ends before its last frame")

    def _decoded(self, job: Job) -> Iterator[tuple[int, Any]]:
        context, counted = self._stream.codec_context, self._index.counted
        unfed, count = set(job.stamps), 0
        # frames that no other refers to need no decoding, unless they are asked for
        context.skip_frame = "DEFAULT"
        lean = len(job.numbers) < job.span and context.name == "h264" and not counted and self._threads == 1
        for packet in self._container.demux(self._stream):
            if packet.size and packet.is_corrupt:
                raise _TroubleError("a packet is cut short")
            if lean:
                context.skip_frame = "DEFAULT" if packet.pts in unfed or not packet.size else "NONREF"
            frames = packet.decode()
            if not counted and packet.size:
                unfed.discard(packet.pts)
                if not unfed:  # what is still inside comes out now, without decoding what follows
                    frames = [*frames, *context.decode(None)]
            for frame in frames:
                stamp = count if counted else frame.pts if frame.pts is not None else frame.dts
                count += 1
                if stamp is not None:
                    yield int(stamp), frame
            if not unfed:
                return


class Ahead:
    """Several lanes that fetch jobs in order, and the frames in that order.

    Decoded frames wait as the decoder made them, which is half the size of RGB and lets FFmpeg use its buffers again;
    they are turned into RGB by the same threads shortly before they are read.

    lane: makes a decoder. careful: fetches one frame slowly and says what is wrong with it; called, in the reader's
    thread, for what a lane could not decode. room: bytes of decoded frames that may wait; one more if the reader would
    wait for ever, and a few in RGB.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        lane: Callable[[], Lane],
        careful: Callable[[int], Fetched],
        workers: int,
        room: int,
    ) -> None:
        self._jobs, self._lane, self._careful, self._workers, self._room = jobs, lane, careful, workers, room
        lock = threading.Lock()
        self._change = threading.Condition(lock)  # the threads wait on it
        self._reading = threading.Condition(lock)  # the reader does
        self._place = 0  # of the frame that is read next
        self._shelves: list[deque[tuple[int, Any, int]]] = [deque() for _ in jobs]  # number, frame, bytes
        self._ended = [False] * len(jobs)
        self._given = [0] * len(jobs)  # frames of each job that were taken to be turned into RGB
        self._ready: dict[int, tuple[int, Pixels | None] | None] = {}  # by place in order; None: in the making
        self._next = self._turn = self._held = self._claimed = 0
        self._stopped = False
        self._broken: Exception | None = None

    def __iter__(self) -> Iterator[Fetched]:
        """All frames in order. Whatever ends the loop, the threads have ended when it returns."""
        named: dict[str, Any] = {"target": self._safely, "daemon": True, "name": "foveate-decode"}
        threads = [threading.Thread(**named) for _ in range(self._workers)]
        for thread in threads:
            thread.start()
        try:
            for place in range(sum(len(job.numbers) for job in self._jobs)):
                number, pixels = self._read(place)
                yield self._careful(number) if pixels is None else (number, pixels)
        finally:
            with self._change:
                self._stopped = True
                self._change.notify_all()
            for thread in threads:
                thread.join()

    def _read(self, place: int) -> tuple[int, Pixels | None]:
        with self._change:
            self._place = place
            self._reading.wait_for(lambda: self._ready.get(place) or self._broken)
            if self._broken is not None:
                raise self._broken
            found = self._ready.pop(place)
            self._change.notify_all()
        assert found is not None
        return found

    # --- what the threads do ------------------------------------------------------------------------------------

    def _safely(self) -> None:
        try:
            self._work()
        except Exception as error:  # a defect of ours: the reader must not wait for ever
            with self._change:
                self._broken = error
                self._reading.notify()

    def _work(self) -> None:
        """Turn the next frame in order into RGB if it is wanted soon, else decode, else wait."""
        convert, lane, frames, at = Converter(threads=1), None, None, -1
        try:
            while True:
                with self._change:
                    while not self._stopped:
                        taken = self._take()
                        if taken is not None or (frames is not None and self._may_decode(at)):
                            break
                        if frames is None and self._next < len(self._jobs):
                            at, self._next = self._next, self._next + 1
                            break
                        if frames is None and self._turn == len(self._jobs):
                            return
                        self._change.wait()
                    if self._stopped:
                        return
                if taken is not None:
                    place, number, frame = taken
                    self._finish(place, number, _converted(convert, frame))
                    continue
                try:
                    if frames is None:
                        lane = lane or self._lane()
                        frames = lane.frames(self._jobs[at])
                    self._shelve(at, next(frames))
                    continue
                except StopIteration:
                    pass
                except Exception:  # the careful way meets it again, and says what is wrong at which second
                    if lane is not None:
                        lane.close()
                    lane = None
                frames = None
                with self._change:
                    self._ended[at] = True
                    self._change.notify_all()
        finally:
            if lane is not None:
                lane.close()

    def _take(self) -> tuple[int, int, Any] | None:
        """The next frame in order that is decoded and not taken: (place, number, frame). The lock is held."""
        while self._turn < len(self._jobs) and len(self._ready) < 2 * self._workers + 4:
            if self._shelves[self._turn]:
                number, frame, size = self._shelves[self._turn].popleft()
                self._held -= size
                self._given[self._turn] += 1
                self._ready[self._claimed] = None
                self._claimed += 1
                self._change.notify_all()
                return self._claimed - 1, number, frame
            if not self._ended[self._turn]:
                return None
            for number in self._jobs[self._turn].numbers[self._given[self._turn] :]:
                self._ready[self._claimed] = number, None  # what the lane left over is for the careful way
                self._claimed += 1
                self._reading.notify()
            self._turn += 1
            self._change.notify_all()
        return None

    def _may_decode(self, at: int) -> bool:
        return self._held < self._room or (at == self._turn and not self._shelves[at])

    def _shelve(self, at: int, found: tuple[int, Any]) -> None:
        number, frame = found
        size = sum(plane.buffer_size for plane in frame.planes)
        with self._change:
            self._shelves[at].append((number, frame, size))
            self._held += size
            if at == self._turn:
                self._change.notify()  # another thread may turn it into RGB

    def _finish(self, place: int, number: int, pixels: Pixels | None) -> None:
        with self._change:
            self._ready[place] = number, pixels
            if place == self._place:
                self._reading.notify()


def _converted(convert: Converter, frame: Any) -> Pixels | None:
    try:
        return convert(frame)
    except (av.error.FFmpegError, ValueError, MemoryError):
        return None
