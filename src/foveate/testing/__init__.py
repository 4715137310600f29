"""Tools for testing methods and sites without downloading anything: a zoo of tiny models with ready inputs."""

from foveate.testing.tiny import FAMILIES, TINY, tiny

__all__ = ["FAMILIES", "TINY", "tiny"]
