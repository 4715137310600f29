"""Running out of memory, said in one sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import OutOfMemoryError

#: What torch says in a plain RuntimeError when the CPU has no memory left.
_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


def available() -> int | None:
    """Bytes of main memory that a new process could take without swapping, or None where that cannot be read."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def is_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's own, CUDA's, or torch's on the CPU."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(s in str(error).lower() for s in _SIGNS)


@contextmanager
def explained(doing: str, advice: str) -> Iterator[None]:
    """Turn any out-of-memory exception of the block into an OutOfMemoryError that says what to do."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_memory(error):
            raise
        raise OutOfMemoryError(f"no memory left for {doing}; {advice}") from error
