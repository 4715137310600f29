"""Finding the moving pictures in a container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av


def has_video(path: Path) -> bool:
    """True if PyAV finds a moving picture in the file (a cover inside a song is none)."""
    try:
        with av.open(str(path)) as container:
            return video_stream(container) is not None
    except (av.error.FFmpegError, ValueError, OSError):
        return False


def video_stream(container: Any) -> Any:
    """The first video stream that is no cover picture, or None."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None
