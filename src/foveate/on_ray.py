"""Ray, an optional extra: found or asked for by name, and started quietly where none runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import InputError, MissingExtraError


def imported(extras: str) -> Any:
    """The package ``ray``, with ``ray.data``.

    Raises:
        MissingExtraError: it is not installed; the message names ``extras``.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(f"--ray needs Ray Data; install it with: pip install 'foveate[{extras}]'") from error
    return ray


@contextmanager
def running(ray: Any) -> Iterator[None]:
    """A running Ray, started here if there is none, whose progress bars and reports are off inside the block."""
    mine = not ray.is_initialized()
    log = logging.getLogger("ray.data")
    level = log.level
    if mine:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        context.enable_progress_bars = bars
        if mine:
            ray.shutdown()


def enough(workers: int) -> None:
    """Raises InputError unless there is at least one worker."""
    if workers < 1:
        raise InputError(f"'workers' must be at least 1. Got {workers}.")
