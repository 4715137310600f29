"""Which frames a video holds and when they are shown, from its packets' time stamps; nothing is decoded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Containers that mark keyframes and seek to them reliably; MPEG-TS does for some codecs. All others are read forward.
SEEKABLE = {"mov", "mp4", "matroska", "webm", "flv"}
FLAGGED = ("h264", "hevc")
COUNTED = ("avi", "mpeg")  # no time stamps, or not one for each frame: frames are told apart by counting


@dataclass(frozen=True, eq=False)
class Index:
    """The frames of one stream.

    Attributes:
        pts: ascending time stamp of each frame, in ticks (frame numbers, if counted).
        key_pts: ascending time stamps of frames that can be decoded on their own.
        key_seek: where to seek to for each of them: the stamp by which the container finds it.
        order, order_key: time stamp of every packet in decoding order, and whether decoding can start there.
        counted: frames are told apart by counting from the start of the file, since time stamps cannot be trusted.
        times: (frames,) float64, seconds from the first frame.
        readable: seconds from the first frame to the end of the last.
        packets: number of packets.
        start: when the first frame is shown, in seconds of the stream's own clock.
    """

    pts: list[int]
    key_pts: list[int]
    key_seek: list[int]
    order: list[int]
    order_key: list[bool]
    counted: bool
    times: NDArray[np.float64]
    readable: float
    packets: int
    start: float = 0.0

    @property
    def keys(self) -> list[int]:
        """Frame numbers that can be decoded on their own."""
        return sorted({max(0, bisect_right(self.pts, p) - 1) for p in self.key_pts})


def read_index(packets: Iterable[Any], stream: Any, container: str) -> Index | None:
    """All packets of ``stream``, in decoding order -> its index, or None if nothing in it is shown.

    container: PyAV's name of the format, for instance "matroska,webm".
    """
    codec = stream.codec_context.name
    stamps: list[int | None] = []
    dts: list[int | None] = []
    key, shown, ends, tick = [], [], [], float(stream.time_base or 1)
    for packet in packets:
        if not packet.size:
            continue
        stamps.append(packet.pts)
        dts.append(packet.dts)
        key.append(bool(packet.is_keyframe))
        hidden = packet.is_discard or (codec == "vp8" and not bytes(packet)[0] & 0x10)  # VP8 flags unseen references
        shown.append(not hidden)
        ends.append((packet.pts or 0) + (packet.duration or 0))
    if not any(shown):
        return None
    total, rate = len(shown), stream.average_rate or stream.guessed_rate
    known = [p for p in stamps if p is not None]
    counted = container in COUNTED or len(known) < total
    if counted:
        shown = [True] * sum(shown)
        known, ends = list(range(len(shown))), list(range(1, len(shown) + 1))
        tick = float(1 / rate) if rate else tick
    if counted or not (SEEKABLE & set(container.split(",")) or (container == "mpegts" and codec in FLAGGED)):
        key = [i == 0 for i in range(len(known))]
    start = key.index(True) if any(key) else 0  # nothing before the first keyframe can be decoded
    seen = {p for p, s in zip(known[start:], shown[start:]) if s} or set(known)
    pts = sorted(p for p in seen if p >= known[start] or start == 0) or sorted(seen)
    key_pts = sorted({p for p, k in zip(known, key) if k}) or pts[:1]
    # MPEG-TS is searched by decoding time, and a search for the time of display would land behind the keyframe
    decoded = {p: d for p, d in zip(known, dts) if d is not None} if container == "mpegts" and not counted else {}
    key_seek = [min(p, decoded.get(p, p)) for p in key_pts]
    times = (np.asarray(pts, dtype=np.float64) - pts[0]) * tick
    typical = float(np.median(np.diff(times))) if len(pts) > 1 else float(1 / rate) if rate else 1.0
    told = (max(ends) - pts[0]) * tick
    readable = told if told > times[-1] else float(times[-1]) + typical
    return Index(pts, key_pts, key_seek, known, key, counted, times, readable, total, pts[0] * tick)
