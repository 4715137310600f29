"""One decoder reads one file, alone in its process: ``python decoders.py NAME dense|sparse FILE`` prints JSON.

Stands alone, so that an interpreter without foveate can run it with the libraries that it has. Each function returns
the frames' count and a checksum of a few of them; the clock includes opening the file, not importing the library.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

SPARSE = 64  # frames of a sparse request, from the middles of as many equal parts
LOOKED_AT = 500  # of a dense one, every so many-th enters the checksum


def dense(frames: Iterable[Any]) -> tuple[int, int]:
    """Use up (H, W, 3) uint8 arrays, keeping none."""
    count = check = 0
    for frame in frames:
        if count % LOOKED_AT == 0:
            check = zlib.adler32(np.ascontiguousarray(frame).tobytes(), check)
        count += 1
    return count, check


def foveate(path: str, what: str) -> tuple[int, int]:
    """Ours: keyframe-aligned intervals in threads."""
    from foveate.video import open_video

    with open_video(path) as video:
        frames = video.stream() if what == "dense" else video.sample(SPARSE)
        return dense(f.array for f in frames)


def pyav(kind: str) -> Callable[[str, str], tuple[int, int]]:
    """PyAV as its documentation shows it, with one kind of threads."""

    def run(path: str, what: str) -> tuple[int, int]:
        import av

        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = kind
            if what == "dense":
                return dense(f.to_ndarray(format="rgb24") for f in container.decode(stream))
            return dense(_sought(container, stream))

    return run


def pyav_kept(path: str, what: str) -> tuple[int, int]:
    """PyAV on one thread with one converter for all frames, which few programs do."""
    import av
    from av.video.reformatter import VideoReformatter

    convert = VideoReformatter()
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        return dense(convert.reformat(f, format="rgb24", threads=1).to_ndarray() for f in container.decode(stream))


def _sought(container: Any, stream: Any) -> Iterable[Any]:
    length = float(stream.duration * stream.time_base)
    for i in range(SPARSE):
        want = round((i + 0.5) * length / SPARSE / stream.time_base)
        container.seek(want, stream=stream, backward=True)
        held = None
        for frame in container.decode(stream):
            if frame.pts > want and held is not None:
                break
            held = frame
        assert held is not None
        yield held.to_ndarray(format="rgb24")


def decord(path: str, what: str) -> tuple[int, int]:
    """decord with its own choice of threads."""
    import decord

    reader = decord.VideoReader(path, num_threads=0)
    if what == "dense":
        return dense(reader[i].asnumpy() for i in range(len(reader)))
    n = len(reader)
    return dense(reader.get_batch([int((i + 0.5) * n / SPARSE) for i in range(SPARSE)]).asnumpy())


def torchcodec(threads: int, mode: str) -> Callable[[str, str], tuple[int, int]]:
    """torchcodec, exact or approximate seeking."""

    def run(path: str, what: str) -> tuple[int, int]:
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode=mode)
        n = len(decoder)
        if what == "dense":
            return dense(f.numpy() for f in decoder)
        return dense(decoder.get_frames_at([int((i + 0.5) * n / SPARSE) for i in range(SPARSE)]).data.numpy())

    return run


DECODERS: dict[str, Callable[[str, str], tuple[int, int]]] = {
    "foveate": foveate,
    "pyav, one thread": pyav("NONE"),
    "pyav, one thread, converter kept": pyav_kept,
    "pyav, slice threads": pyav("SLICE"),
    "pyav, frame threads": pyav("FRAME"),
    "pyav, auto threads": pyav("AUTO"),
    "decord": decord,
    "torchcodec, one thread": torchcodec(1, "exact"),
    "torchcodec, two threads": torchcodec(2, "exact"),
    "torchcodec, two threads, approximate": torchcodec(2, "approximate"),
}


def peak_mb() -> float:
    """Most memory this process ever had, in MB. ``ru_maxrss`` counts its parent's too, so Linux's own file is read."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run one, and print what it took."""
    name, what, path = sys.argv[1:4]
    module = {"foveate": "foveate.video", "decord": "decord"}.get(
        name, "torchcodec.decoders" if "torch" in name else "av"
    )
    __import__(module)
    cpu, begun = time.process_time(), time.perf_counter()
    count, check = DECODERS[name](path, what)
    told = {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "frames": count,
        "checksum": check,
        "peak_mb": peak_mb(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
