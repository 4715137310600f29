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
        self._convert = Converter(threads=1)
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

    def frames(self, job: Job) -> Iterator[tuple[int, Pixels]]:
        """The job's frames as (number, (H, W, 3) uint8). Raises whatever decoding raises, and _TroubleError."""
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
                yield left.popleft()[0], self._convert(frame)
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
    """Several lanes that fetch jobs in order and hold at most ``room`` frames that were not read yet (and one more).

    lane: makes a decoder; called in the thread that uses it. careful: fetches one frame slowly and says what is wrong
    with it; called, in the reader's thread, for what a lane could not decode.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        lane: Callable[[], Lane],
        careful: Callable[[int], Fetched],
        workers: int,
        room: int,
    ) -> None:
        self._jobs, self._lane, self._careful = jobs, lane, careful
        self._workers, self._room = min(workers, len(jobs)), room
        self._change = threading.Condition()
        self._shelves: list[deque[tuple[int, Pixels]]] = [deque() for _ in jobs]
        self._ended = [False] * len(jobs)
        self._next = self._head = self._held = 0
        self._stopped = False

    def __iter__(self) -> Iterator[Fetched]:
        """All frames in order. Whatever ends the loop, the threads have ended when it returns."""
        threads = [
            threading.Thread(target=self._work, daemon=True, name="foveate-decode") for _ in range(self._workers)
        ]
        for thread in threads:
            thread.start()
        try:
            for at, job in enumerate(self._jobs):
                done = 0
                while (found := self._take(at)) is not None:
                    done += 1
                    yield found
                for number in job.numbers[done:]:
                    yield self._careful(number)
        finally:
            with self._change:
                self._stopped = True
                self._change.notify_all()
            for thread in threads:
                thread.join()

    def _take(self, at: int) -> tuple[int, Pixels] | None:
        shelf = self._shelves[at]
        with self._change:
            self._head = at
            self._change.notify_all()
            self._change.wait_for(lambda: shelf or self._ended[at])
            if not shelf:
                return None
            self._held -= 1
            return shelf.popleft()

    def _put(self, at: int, found: tuple[int, Pixels]) -> bool:
        """Hand a frame over once there is room for it, or at once if the reader waits for it. False: stop."""
        shelf = self._shelves[at]
        with self._change:
            self._change.wait_for(lambda: self._stopped or self._held < self._room or (at == self._head and not shelf))
            if self._stopped:
                return False
            shelf.append(found)
            self._held += 1
            self._change.notify_all()
            return True

    def _work(self) -> None:
        lane: Lane | None = None
        while (at := self._claim()) is not None:
            try:
                lane = lane or self._lane()
                going = all(self._put(at, found) for found in lane.frames(self._jobs[at]))
            except Exception:  # the careful way meets it again, and says what is wrong at which second
                going = True
                if lane is not None:
                    lane.close()
                    lane = None
            with self._change:
                self._ended[at] = True
                self._change.notify_all()
            if not going:
                break
        if lane is not None:
            lane.close()

    def _claim(self) -> int | None:
        with self._change:
            if self._stopped or self._next == len(self._jobs):
                return None
            self._next += 1
            return self._next - 1
