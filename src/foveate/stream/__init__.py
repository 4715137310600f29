"""Watching without an end: frames go in as they come, a bounded memory stays, and questions are answered from it."""

from .live import Stream
from .recall import Source, Sourced

__all__ = ["Source", "Sourced", "Stream"]
