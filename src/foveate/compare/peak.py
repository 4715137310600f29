"""The most memory that something took: of the GPU where the model is on one, else of the process, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

import torch

from ..bench import process

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def begin(device: torch.device) -> bool:
    """Forget earlier peaks; False where none can be measured from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _RESET.write_text("5", encoding="ascii")  # sets the peak to what is held now
    except OSError:
        return False
    return _STATUS.exists()


def peak(device: torch.device) -> int:
    """Bytes at the peak since :func:`begin`: allocated by torch on the GPU, else resident in main memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return process.peak()
