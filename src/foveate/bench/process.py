"""How much main memory a process holds, as Linux tells it."""

from __future__ import annotations

import os
from pathlib import Path

from .decoders import peak_mb

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int | None = None) -> int:
    """Bytes of main memory that a process holds now; None for this one."""
    pages = Path(f"/proc/{'self' if pid is None else pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * PAGE


def peak() -> int:
    """Bytes of the most main memory that this process ever held; not its parent's, as ``ru_maxrss`` would have it."""
    return round(peak_mb() * 2**20)
