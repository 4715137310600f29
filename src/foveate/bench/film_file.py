"""A long H.264 file made from nothing: a scene that pans under a moving square, with cuts and a little noise."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

RATE = 30
PIECE = 20  # seconds that are encoded; the rest of the file repeats their packets


def film_file(path: Path, seconds: int, size: tuple[int, int] = (854, 480), seed: int = 0) -> Path:
    """Write ``seconds`` of video at 30 frames a second, with a keyframe at each cut (7 s) and at most 250 frames apart.

    A file that is there already, whole, is left as it is. seconds: a multiple of the 20 s that are encoded.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    piece, part = path.with_suffix(".piece.mp4"), path.with_suffix(".part.mp4")
    _encode(piece, size, seed)
    with av.open(str(piece)) as source, av.open(str(part), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for turn in range(seconds // PIECE):
            source.seek(0, stream=stream)
            for packet in source.demux(stream):
                if packet.dts is None or packet.pts is None:
                    continue
                later = round(turn * PIECE / stream.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + later, packet.dts + later, copy
                out.mux(packet)
    piece.unlink()
    part.replace(path)
    return path


def _encode(path: Path, size: tuple[int, int], seed: int) -> None:
    width, height = size
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 4 + 100, width // 4 + 200, 3)).astype(np.uint8)
    ground = np.asarray(
        Image.fromarray(small).resize((small.shape[1] * 4, small.shape[0] * 4), Image.Resampling.BICUBIC)
    )
    noise = [rng.integers(0, 8, (height, width, 1)).astype(np.uint8) for _ in range(4)]
    with av.open(str(path), "w") as out:
        options = {"preset": "veryfast", "crf": "23", "x264-params": "bframes=3:cpu-independent=1"}
        stream: Any = out.add_stream("libx264", rate=Fraction(RATE), options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", 250
        for i in range(PIECE * RATE):
            scene, x, y = i // (7 * RATE), 2 * i % 700, i % 300
            frame = np.roll(ground, 101 * scene, 1)[y : y + height, x : x + width] // 2 + (40 + 20 * scene)
            left, top = int(width * (0.4 + 0.2 * np.sin(i / 20))), int(height * (0.4 + 0.2 * np.cos(i / 31)))
            frame[top : top + height // 5, left : left + height // 5] = (230, 40, 40)
            frame = frame + noise[i % len(noise)]
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame, np.uint8), format="rgb24")))
        out.mux(stream.encode())
